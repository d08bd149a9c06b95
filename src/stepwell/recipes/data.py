"""Recipes written down and read: dicts, TOML, JSON, files, and the hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stepwell.codecs import AS_IT_IS
from stepwell.recipes.fields import as_selector
from stepwell.recipes.mistakes import Mistakes, RecipeError
from stepwell.recipes.recipe import NOT_KNOWN, Recipe
from stepwell.recipes.route import Route, changed_values
from stepwell.rules.registry import UnknownRuleError, rule_class, rule_names
from stepwell.schedules import Schedule, parse
from stepwell.schedules import from_dict as schedule_from_dict
from stepwell.select import Predicates, Selector
from stepwell.select import parse as parse_selector
from stepwell.text import toml
from stepwell.text.naming import nearest
from stepwell.text.values import shown

VERSION = 1
NONE = "none"
STAGES = ("clip_norm", "on_nonfinite", "cautious")
KEYS = (
    *("version", "name", "source", "engine", "state_dtype", "master", "layer_decay", "undecayed"),
    *("defaults", "schedules", "stages", "roles", "depths", "routes"),
)
OF_RULES = ("defaults", "schedules", "cautious")
# What a key of a file is called in `Route`.
ROUTE_KEYS = {
    "name": "name",
    "select": "select",
    "rule": "rule",
    "set": "hyper_parameters",
    "schedules": "schedules",
    "state_dtype": "state_dtype",
    "master": "master",
    "why": "why",
}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain dicts, lists, strings and numbers, in the order in which a reader wants them."""
    plain = recipe.plain()
    data: dict[str, Any] = {"version": VERSION}
    data |= {
        name: _plain(getattr(recipe, name))
        for name in ("name", "source", "engine", "state_dtype", "master", "layer_decay", "undecayed")
        if getattr(recipe, name) != getattr(plain, name)
    }
    stages = {name: value for name in STAGES if (value := getattr(recipe, name)) != getattr(plain, name)}
    tables = {
        "defaults": recipe.defaults,
        "schedules": recipe.schedules,
        "stages": stages,
        "roles": recipe.roles,
        "depths": recipe.depths,
    }
    data |= {name: _plain(content) for name, content in tables.items() if content}
    return data | {"routes": [_route_to_dict(route) for route in recipe.routes]}


def _route_to_dict(route: Route) -> dict[str, Any]:
    plain = route.plain()
    data = {key: _plain(getattr(route, name)) for key, name in ROUTE_KEYS.items() if name != "rule"}
    kept = {key: value for key, value in data.items() if value != _plain(getattr(plain, ROUTE_KEYS[key]))}
    return {key: (route.rule if key == "rule" else kept[key]) for key in ROUTE_KEYS if key == "rule" or key in kept}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return repr(value) if isinstance(value, (Selector, Schedule)) else value


def from_dict(data: Mapping[str, Any], *, functions: Predicates | None = None, subject: str = "") -> Recipe:
    """The recipe that a dict describes, which errors call `subject`. Raises RecipeError naming every mistake."""
    if not isinstance(data, Mapping):
        raise RecipeError([f"a recipe must be a table with routes, got {shown(data)}"], subject or "this recipe")
    found = Mistakes()
    subject = subject or (f"recipe {data['name']!r}" if data.get("name") else "this recipe")
    _check_version(data.get("version", VERSION), found, subject)
    _check_keys(data, KEYS, found)
    arguments = {name: data[name] for name in KEYS if name in data and name not in ("version", "stages", "routes")}
    arguments |= _stages(data.get("stages", {}), found)
    arguments["schedules"] = _schedules(data.get("schedules", {}), functions, found)
    if "undecayed" in data:
        del arguments["undecayed"]
        with found.at("undecayed"):
            arguments["undecayed"] = _selector(data["undecayed"], functions)
    routes = data.get("routes", [])
    if not isinstance(routes, (list, tuple)):
        found.found.append(f"routes must be a list of tables, got {shown(routes)}")
        routes = []
    found_routes = [_tried(route, functions, found, f"routes[{index}]") for index, route in enumerate(routes)]
    made = [route for route in found_routes if route is not None]
    complete = len(made) == len(found_routes)
    if not complete and not made:
        made = [Route(rule="AdamW")]
        arguments = {name: value for name, value in arguments.items() if name not in OF_RULES}
    of_all = Mistakes()
    with of_all.at():
        recipe = Recipe(routes=tuple(made), **arguments)
    # A hyper-parameter that no rule here has may be one of the rule that could not be read.
    found.found += [mistake for mistake in of_all.found if complete or NOT_KNOWN not in mistake]
    found.raise_if_any(subject)
    return recipe


def _tried(data: Any, functions: Predicates | None, found: Mistakes, place: str) -> Route | None:
    """The route; where it has mistakes, one with its rule alone, so that the rest of the recipe can be checked; None
    where not even that can be read."""
    with found.at(place):
        return _route_from_dict(data, functions)
    if isinstance(data, Mapping) and "rule" in data:
        with Mistakes().at():
            return Route(rule=data["rule"], name=place)
    return None


def _check_version(version: Any, found: Mistakes, subject: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        found.found.append(f"version must be a whole number from 1 to {VERSION}, got {shown(version)}")
    elif version > VERSION:  # nothing else in it can be judged
        mistake = f"it is written in format {version}, this stepwell reads up to {VERSION}; a newer stepwell reads it"
        raise RecipeError([mistake], subject)


def _stages(stages: Any, found: Mistakes) -> dict[str, Any]:
    if not isinstance(stages, Mapping):
        found.found.append(f"stages must be a table of {', '.join(STAGES)}, got {shown(stages)}")
        return {}
    _check_keys(stages, STAGES, found, "stages")
    return {name: stages[name] for name in STAGES if name in stages}


def _route_from_dict(data: Any, functions: Predicates | None) -> Route:
    if not isinstance(data, Mapping):
        raise TypeError(f"a route must be a table with a rule, got {shown(data)}")
    found = Mistakes()
    _check_keys(data, ROUTE_KEYS, found)
    arguments = {argument: data[key] for key, argument in ROUTE_KEYS.items() if key in data and key != "select"}
    arguments["schedules"] = _schedules(data.get("schedules", {}), functions, found)
    if "select" in data:
        with found.at("select"):
            arguments["select"] = _selector(data["select"], functions)
    if "rule" in data:
        with found.at():
            route = Route(**arguments)
    else:
        found.found.append("it has no rule, such as rule = 'AdamW'")
    found.raise_if_any("route")
    return route


def _selector(given: Any, functions: Predicates | None) -> Selector:
    return parse_selector(given, functions=functions) if isinstance(given, str) else as_selector(given)


def _schedules(given: Any, functions: Predicates | None, found: Mistakes) -> Any:
    """The texts and tables among the schedules read; what is neither is left for `Recipe` to refuse."""
    if not isinstance(given, Mapping):
        return given
    known: Mapping[str, Callable[[Any], Any]] = functions or {}
    schedules: dict[str, Any] = {}
    for name, one in given.items():
        with found.at(f"schedules.{name}"):
            if isinstance(one, str):
                schedules[name] = parse(one, functions=known)
            else:
                schedules[name] = schedule_from_dict(one, functions=known) if isinstance(one, Mapping) else one
    return schedules


def _check_keys(data: Mapping[str, Any], known: Any, found: Mistakes, place: str = "") -> None:
    prefix = f"{place}: " if place else ""
    for key in data:
        if key not in known:
            hint = nearest(str(key), known)
            if not hint and known is KEYS:
                hint = nearest(str(key), STAGES).replace("?", " under [stages]?")
            hint = hint or f"; keys are {', '.join(known)}"
            found.found.append(f"{prefix}unknown key {key!r}{hint}")


def to_toml(recipe: Recipe) -> str:
    """The recipe as a TOML document. TOML has no word for None, so hyper-parameters say "none"."""
    return toml.document(_with_values(to_dict(recipe), {None: NONE}))


def from_toml(text: str, *, functions: Predicates | None = None, subject: str = "") -> Recipe:
    """The recipe in a TOML document."""
    try:
        data = toml.read(text)
    except ValueError as error:
        raise RecipeError([str(error)], subject or "this recipe") from None
    return from_dict(_with_values(data, {NONE: None}), functions=functions, subject=subject)


def _with_values(data: Mapping[str, Any], others: Mapping[Any, Any]) -> dict[str, Any]:
    """The data with other words for some values of hyper-parameters."""

    def value(one: Any) -> Any:
        if isinstance(one, list):
            return [value(each) for each in one]
        return others.get(one, one) if isinstance(one, Hashable) else one

    def changed(owner: Any, key: str) -> Any:
        table = owner.get(key) if isinstance(owner, Mapping) else None
        return (
            {**owner, key: {name: value(one) for name, one in table.items()}} if isinstance(table, Mapping) else owner
        )

    routes = data.get("routes")
    made = {**data, "routes": [changed(route, "set") for route in routes]} if isinstance(routes, list) else data
    found: dict[str, Any] = dict(changed(made, "defaults"))
    return found


def to_json(recipe: Recipe) -> str:
    """The recipe as JSON."""
    return json.dumps(to_dict(recipe), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, *, functions: Predicates | None = None, subject: str = "") -> Recipe:
    """The recipe in a JSON text."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        mistake = f"no JSON: {error.msg} (at line {error.lineno}, column {error.colno})"
        raise RecipeError([mistake], subject or "this recipe") from None
    except RecursionError:
        raise RecipeError(["no recipe is nested that deep"], subject or "this recipe") from None
    return from_dict(data, functions=functions, subject=subject)


def load(path: Path, *, functions: Predicates | None = None) -> Recipe:
    """The recipe in a file."""
    read = {".toml": from_toml, ".json": from_json}.get(path.suffix)
    if read is None:
        raise RecipeError(["a recipe's file ends in .toml or .json"], str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([f"cannot be read: {error.strerror}"], str(path)) from None
    except UnicodeDecodeError as error:
        raise RecipeError([f"is not text: {error.reason} at byte {error.start}"], str(path)) from None
    return read(text, functions=functions, subject=str(path))


def named(given: str | Recipe, *, beside: Iterable[str] = (), rules: bool = True) -> Recipe:
    """The recipe that a user gives, or names: a preset, a file, or a rule.

    Args:
        given: the recipe, or its name. A preset wins over a rule of the same name.
        beside: names that would have done, to be listed with the presets.
        rules: whether a rule will do. It is then a recipe of its own: alone, at its defaults, without a schedule.

    Raises:
        TypeError: for what is neither a recipe nor a name.
        ValueError: for a name that nobody has, with the nearest; for a file, RecipeError.
    """
    from stepwell.recipes.presets import PRESETS, preset, spelled

    if isinstance(given, Recipe):
        return given
    if not isinstance(given, str):
        raise TypeError(
            f"recipe must be a stepwell.Recipe, or the name of a preset, a rule or a file, got {shown(given)}"
        )
    path = Path(given)
    if path.suffix in (".toml", ".json") or (path.suffix != "" and path.is_file()):
        return load(path)
    if spelled(given) in PRESETS or not rules:
        return preset(given, beside=beside)
    try:
        rule = rule_class(given).__name__
    except UnknownRuleError:
        if "(" in given:  # what is wrong with it, the wrapper or the rule, is said already
            raise
        known = list(dict.fromkeys((*PRESETS, *beside)))
        raise ValueError(
            f"unknown recipe {given!r}{nearest(given, [*rule_names(), *known])}; recipes are {', '.join(known)}, every "
            "rule of stepwell.list_optimizers(), and files that end in .toml or .json"
        ) from None
    return Recipe(name=rule, routes=(Route(rule=rule),))


def save(recipe: Recipe, path: Path) -> None:
    """Write the recipe to a file that ends in .toml or .json."""
    write = {".toml": to_toml, ".json": to_json}.get(path.suffix)
    if write is None:
        raise ValueError(f"a recipe's file ends in .toml or .json, got {str(path)!r}")
    path.write_text(write(recipe), encoding="utf-8")


def digest(recipe: Recipe) -> str:
    """Twelve hexadecimal digits of what decides how a model is trained: not of names, reasons and the engine, nor of
    where a value stands or whether it is written out."""
    routes = []
    for route in recipe.routes:
        rule = recipe.rule_of(route)
        schedules = sorted(recipe.schedules_of(route).items())
        routes.append((route.select, type(rule).__name__, sorted(changed_values(rule).items()), schedules))
    decisive: tuple[Any, ...] = (
        *(routes, recipe.undecayed, recipe.layer_decay, recipe.clip_norm, recipe.on_nonfinite),
        *(list(recipe.roles.items()), list(recipe.depths.items())),  # of these, the first that matches wins
    )
    stored = [recipe.storage_of(route) for route in recipe.routes]
    if any(storage != AS_IT_IS for storage in stored):
        decisive = (*decisive, stored)
    return hashlib.sha256(json.dumps(_exact(decisive)).encode()).hexdigest()[:12]


def _exact(value: Any) -> Any:
    """Plain data for a value, equal numbers alike: 1 as 1.0."""
    if isinstance(value, (tuple, list)):
        return [_exact(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else _plain(value)
