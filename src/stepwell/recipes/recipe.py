"""A recipe: the whole choice of how a model is trained, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stepwell.codecs import CHOICES, MasterKind, StateDtype, Storage
from stepwell.engines.choice import EngineName, check_engine
from stepwell.optimizer.optimizer import OnNonfinite
from stepwell.recipes.fields import as_schedules, as_selector, as_table, as_text, check_scheduled
from stepwell.recipes.frozen import Frozen
from stepwell.recipes.mistakes import Mistakes, check_values
from stepwell.recipes.route import Route
from stepwell.roles import ROLES, Role
from stepwell.rules.hyper import OpenFraction, Positive, validated
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, hyper_parameters
from stepwell.scheduler.tracks import Entry, entry_called
from stepwell.schedules import Schedule
from stepwell.select import Predicates, Selector, role
from stepwell.text.naming import meant, nearest

NOT_KNOWN = "has no hyper-parameter"
_OF_THE_RECIPE = "; recipe.replace({0}=…) sets it, of a recipe such as stepwell.Recipe.preset('adamw')"
UNDECAYED: tuple[Role, ...] = ("norm", "bias", "scalar", "other")
"""Gains, offsets and numbers: zero is no neutral value for them, and decay would only pull them there."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Recipe(Frozen):
    """The whole choice of how a model is trained, as data: frozen, checked as a whole, equal by value.

    `Recipe.preset(name)` gives a well-known one; `to_toml`, `to_json` and `to_dict` write one down, and their
    counterparts read it. `stepwell.plan(model, recipe, horizon=…)` lays it over a model.

    Args:
        routes: one, or some in an order: the first whose selector takes a parameter has it.
        defaults: hyper-parameters of all rules that have them; a route's own win.
        schedules: schedule by hyper-parameter (`lr`, `weight_decay`, `betas[0]`), as the text that it prints as or as a
            schedule; of all routes whose rule has it.
        undecayed: which parameters have a weight decay of 0, whatever their route says: a `Selector`, or the text that
            one prints as.
        layer_decay: multiplies the learning rate once for each block between a parameter and the head (layer-wise rate
            decay, Howard & Ruder 2018, arXiv:1801.06146, sec. 3.1; Clark et al. 2020, arXiv:2003.10555, app. B). The
            groups hold the rates that come of it. None leaves them alike.
        roles: role by parameter name, module name or pattern, where the module graph misleads.
        depths: depth by parameter name, module name or pattern, where the module graph misleads.
        clip_norm: the global norm that gradients are clipped to, above 0; None leaves them.
        on_nonfinite: what NaN or infinity in a gradient does: "ignore", "raise" or "skip".
        cautious: every rule that `stepwell.cautious` fits is wrapped in it.
        state_dtype: how state is stored ("float32", "bfloat16", "8bit", "4bit"), as `stepwell.Optimizer` takes it: of
            all routes whose rule has such state. Embeddings keep float32 in place of 8 and 4 bits, unless their route
            says otherwise. None: as the parameters.
        master: how 16-bit weights are kept ("stochastic", "kahan", "compensated", "compensated8", "float32"), as
            `stepwell.Optimizer`
            takes it, of all routes. None: rounded to the nearest.
        engine: "auto", "reference", "foreach" or "fused".
        name: what to call it.
        source: where its numbers are from.

    Raises:
        RecipeError: naming every mistake.
    """

    routes: tuple[Route, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    undecayed: Selector = field(default_factory=lambda: role(*UNDECAYED))
    layer_decay: float | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    clip_norm: float | None = None
    on_nonfinite: OnNonfinite = "ignore"
    cautious: bool = False
    state_dtype: StateDtype | None = None
    master: MasterKind | None = None
    engine: EngineName = "auto"
    name: str = ""
    source: str = ""

    if TYPE_CHECKING:  # what is taken, beside what is kept

        def __init__(
            self,
            *,
            routes: Iterable[Route] | Route,
            defaults: Mapping[str, Any] = ...,
            schedules: Mapping[str, Schedule | str] = ...,
            undecayed: Selector | str = ...,
            layer_decay: float | None = None,
            roles: Mapping[str, Role] = ...,
            depths: Mapping[str, int] = ...,
            clip_norm: float | None = None,
            on_nonfinite: OnNonfinite = "ignore",
            cautious: bool = False,
            state_dtype: StateDtype | None = None,
            master: MasterKind | None = None,
            engine: EngineName = "auto",
            name: str = "",
            source: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        found = Mistakes()
        self._settle(
            routes=self._routes(found),
            schedules=as_schedules(self.schedules, found),
            **{name: as_table(name, getattr(self, name), found) for name in ("defaults", "roles", "depths")},
            **{name: as_text(name, getattr(self, name), found) for name in ("name", "source")},
        )
        with found.at("undecayed"):
            self._settle(undecayed=as_selector(self.undecayed))
        for name, annotation in _SINGLE.items():
            with found.at():
                self._settle(**{name: validated(name, getattr(self, name), annotation)})
        with found.at():
            check_engine(self.engine)
        self._check_overrides(found)
        self._check_routes(found)
        found.raise_if_any(f"recipe {self.name!r}" if self.name else "this recipe")

    def _routes(self, found: Mistakes) -> tuple[Route, ...]:
        given: Any = self.routes
        routes = (given,) if isinstance(given, Route) else tuple(given) if isinstance(given, Iterable) else (given,)
        strange = [route for route in routes if not isinstance(route, Route)]
        if strange:
            found.found.append(f"routes must be stepwell.Route objects, got {strange[0]!r}")
        elif not routes:
            found.found.append("a recipe needs at least one route, such as Route(rule='AdamW')")
        return tuple(route for route in routes if isinstance(route, Route))

    def _check_overrides(self, found: Mistakes) -> None:
        for key, each in self.roles.items():
            if each not in ROLES:
                hint = nearest(str(each), ROLES)
                found.found.append(f"roles: unknown role {each!r} for {key!r}{hint}; roles are {', '.join(ROLES)}")
        for key, depth in self.depths.items():
            if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
                found.found.append(f"depths: the depth of {key!r} must be a whole number of at least 0, got {depth!r}")

    def _check_routes(self, found: Mistakes) -> None:
        names = [route.name for route in self.routes]
        for name in sorted({name for name in names if names.count(name) > 1}):
            found.found.append(f"routes: {names.count(name)} routes are called {name!r}; give each a name of its own")
        if not self.routes:
            return
        kinds = list(dict.fromkeys(rule_class(route.rule) for route in self.routes))
        rules = " nor ".join(kind.__name__ for kind in kinds)
        known = {name for kind in kinds for name in hyper_parameters(kind)}
        for place, given in (("defaults", self.defaults), ("schedules", self.schedules)):
            for name in given:
                if entry_called(name).name not in known:
                    found.found.append(f"{place}: {rules} {NOT_KNOWN} {name!r}{meant(name, known)}")
        right: dict[type[Rule], dict[str, Any]] = {}
        wrong: dict[str, list[type[Rule]]] = {}
        for kind in kinds:
            own = Mistakes()
            right[kind] = check_values(kind, self._inherited(kind), own)
            for mistake in own.found:
                wrong.setdefault(mistake, []).append(kind)
        for mistake, those in wrong.items():
            found.found.append(f"defaults, for {' and '.join(kind.__name__ for kind in those)}: {mistake}")
        unfit = {kind for those in wrong.values() for kind in those}
        made: list[Rule] = []
        for route in self.routes:
            kind = rule_class(route.rule)
            # What is wrong between the values that are left tells nothing where one of them is wrong by itself.
            with (Mistakes() if kind in unfit else found).at(f"route {route.name!r}"):
                made.append(kind(**(right[kind] | dict(route.hyper_parameters))))
                check_scheduled(route.schedules, made[-1:], found, f"route {route.name!r}: schedules")
        check_scheduled(self.schedules, made, found, "schedules")
        if self.cautious and not any(_takes_caution(route.rule) for route in self.routes):
            found.found.append(f"cautious fits no rule of this recipe: {rules}")

    def rule_of(self, route: Route) -> Rule:
        """The rule of a route, with the hyper-parameters of the recipe and of the route."""
        name = f"cautious({route.rule})" if self.cautious and _takes_caution(route.rule) else route.rule
        kind = rule_class(name)
        return kind(**(self._inherited(kind) | dict(route.hyper_parameters)))

    def _inherited(self, kind: type[Rule]) -> dict[str, Any]:
        """The defaults of the recipe that a rule has."""
        own = hyper_parameters(kind)
        return {name: value for name, value in self.defaults.items() if name in own}

    def storage_of(self, route: Route) -> Storage:
        """How the groups of a route are stored: as the route says, else as the recipe does."""
        return Storage(route.state_dtype or self.state_dtype, route.master or self.master)

    def schedules_of(self, route: Route) -> dict[str, Schedule]:
        """The schedules that a route follows, by hyper-parameter."""
        values = self.rule_of(route).values()
        return {
            name: schedule
            for name, schedule in {**self.schedules, **route.schedules}.items()
            if entry_called(name).stands_in(values)
        }

    def replace(self, **changes: Any) -> Self:
        """The recipe with other fields: `recipe.replace(clip_norm=1.0)`. Raises as the class does."""
        known = [each.name for each in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise TypeError(
                    f"unknown field {name!r} of a Recipe{nearest(name, known)}; recipe.set(…) changes hyper-parameters"
                )
        return type(self)(**(self.arguments() | changes))

    def set(self, **hyper_parameters_: Any) -> Self:
        """The recipe with other hyper-parameters: `recipe.set(lr=3e-4, betas=(0.9, 0.95), adamw_lr=1e-4)`.

        A hyper-parameter's name speaks to every rule that has it, also where a route said otherwise; with the name of a
        rule or a route before it, to that alone, and wins.

        Raises:
            TypeError: for an unknown name.
            RecipeError: for a value out of range.
        """
        own = {route.name: hyper_parameters(rule_class(route.rule)) for route in self.routes}
        names = {name: None for values in own.values() for name in values}
        addresses: dict[str, list[tuple[str, str]]] = {}
        for route in self.routes:
            for word in dict.fromkeys((route.rule.casefold(), route.name.casefold())):
                for name in own[route.name]:
                    addresses.setdefault(f"{word.replace(' ', '_')}_{name}", []).append((route.name, name))
        to_all: dict[str, Any] = {}
        to_one: dict[str, dict[str, Any]] = {}
        for name, value in hyper_parameters_.items():
            if name in names:
                to_all[name] = value
            elif name in addresses:
                for route_name, hyper_parameter in addresses[name]:
                    to_one.setdefault(route_name, {})[hyper_parameter] = value
            else:
                rules = " and ".join(dict.fromkeys(route.rule for route in self.routes))
                own_fields = [each.name for each in dataclasses.fields(self)]
                known = [*names, *(addresses if len(self.routes) > 1 else ()), *own_fields]
                hint = _OF_THE_RECIPE.format(name) if name in own_fields else meant(name, known)
                hint = hint or f"; it takes {', '.join(names)}"
                raise TypeError(f"unknown hyper-parameter {name!r} for {rules}{hint}")
        found = Mistakes()
        routes = []
        for route in self.routes:
            kept = {name: value for name, value in route.hyper_parameters.items() if name not in to_all}
            with found.at():
                routes.append(dataclasses.replace(route, hyper_parameters=kept | to_one.get(route.name, {})))
        found.raise_if_any("this recipe")
        return self.replace(routes=tuple(routes), defaults={**self.defaults, **to_all})

    def scaled(self, **factors: float) -> Self:
        """The recipe with hyper-parameters multiplied, so that routes keep their ratios: `recipe.scaled(lr=0.5)`.

        Raises:
            TypeError: for a hyper-parameter that no rule of the recipe has as a number.
            RecipeError: for a value that is then out of range.
        """
        rules = {route.name: self.rule_of(route).values() for route in self.routes}
        for name in factors:
            if not any(Entry(name).stands_in(values) for values in rules.values()):
                known = sorted({each for one in rules.values() for each in one if Entry(each).stands_in(one)})
                raise TypeError(
                    f"no rule of the recipe has a number {name!r}; there are {', '.join(known)}{nearest(name, known)}"
                )
        routes = []
        for route in self.routes:
            values = rules[route.name]
            own = {name: values[name] * by for name, by in factors.items() if Entry(name).stands_in(values)}
            routes.append(dataclasses.replace(route, hyper_parameters={**route.hyper_parameters, **own}))
        return self.replace(routes=tuple(routes))

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that are the same for recipes that train alike, in every process and version:
        names, reasons and sources do not count."""
        from stepwell.recipes.data import digest

        return digest(self)

    def plain(self) -> Recipe:
        return Recipe(routes=(Route(rule="AdamW"),))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Recipe):
            return NotImplemented
        return self.arguments() == other.arguments() and all(
            list(getattr(self, name)) == list(getattr(other, name))  # the first that matches wins
            for name in ("roles", "depths")
        )

    def __hash__(self) -> int:
        return hash((self.routes, self.layer_decay, self.clip_norm, self.engine))

    # As data; see `stepwell.recipes.data`, which is imported when it is needed.

    @classmethod
    def preset(cls, name: str) -> Recipe:
        """A well-known recipe, each number with its source. Raises ValueError with the nearest name."""
        from stepwell.recipes.presets import preset

        return preset(name)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain dicts, lists, strings and numbers; what stands at its default is left out."""
        from stepwell.recipes.data import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, functions: Predicates | None = None) -> Recipe:
        """The recipe that `to_dict` gave. Raises RecipeError naming every mistake, with the nearest name for each
        unknown key. `functions` are the Python functions that `where(…)` may name."""
        from stepwell.recipes.data import from_dict

        return from_dict(data, functions=functions)

    def to_toml(self) -> str:
        """The recipe as a TOML document."""
        from stepwell.recipes.data import to_toml

        return to_toml(self)

    @classmethod
    def from_toml(cls, text: str, *, functions: Predicates | None = None) -> Recipe:
        """The recipe in a TOML document. Raises RecipeError, for a syntax error with line and column."""
        from stepwell.recipes.data import from_toml

        return from_toml(text, functions=functions)

    def to_json(self) -> str:
        """The recipe as JSON."""
        from stepwell.recipes.data import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str, *, functions: Predicates | None = None) -> Recipe:
        """The recipe in a JSON text. Raises RecipeError, for a syntax error with line and column."""
        from stepwell.recipes.data import from_json

        return from_json(text, functions=functions)

    @classmethod
    def load(cls, path: str | Path, *, functions: Predicates | None = None) -> Recipe:
        """The recipe in a file that ends in .toml or .json. Raises RecipeError, also where it cannot be read."""
        from stepwell.recipes.data import load

        return load(Path(path), functions=functions)

    def save(self, path: str | Path) -> None:
        """Write the recipe to a file that ends in .toml or .json."""
        from stepwell.recipes.data import save

        save(self, Path(path))


_SINGLE: Mapping[str, Any] = {
    "layer_decay": OpenFraction | None,
    "clip_norm": Positive | None,
    "on_nonfinite": OnNonfinite,
    "cautious": bool,
    **CHOICES,
}


def _takes_caution(rule: str) -> bool:
    if rule.startswith("cautious("):
        return False
    try:
        rule_class(f"cautious({rule})")
    except TypeError:
        return False
    return True
