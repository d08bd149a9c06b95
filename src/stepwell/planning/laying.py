"""A recipe laid over a model: which route, which group, which values, for every parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from stepwell.codecs import AS_IT_IS, Storage, check_storage, has_blocks, in_blocks
from stepwell.optimizer.groups import check_fit
from stepwell.recipes.mistakes import Mistakes
from stepwell.recipes.recipe import Recipe
from stepwell.recipes.route import Route
from stepwell.roles import ROLES, ParameterRole, Role, deepest, parameter_roles
from stepwell.roles.fused import WHOLE, Split
from stepwell.rules.rule import Rule, Shape
from stepwell.schedules import Schedule
from stepwell.select import Everything, Selector
from stepwell.text.naming import nearest
from stepwell.text.tabular import some

EXAMPLES = 3
# Dettmers et al. 2022, arXiv:2110.02861, sec. 2.3.
_WIDE = "the state of embeddings keeps float32, because their rows get gradients at different times"
OWN_RATE = "*"
"""Marks the rates of rules that find the length of a step, or a part of it, while they train."""

Idleness = Literal["shadowed", "frozen", "unmatched"]
"""Why a route took nothing: earlier routes have all it matches, all of that is frozen, or it matches nothing."""


@dataclass(frozen=True, eq=False)
class PlannedGroup:
    """Parameters that share a rule and all its values: a parameter group of the optimizer to be.

    Attributes:
        name: what it is called.
        route: the route of the recipe that leads here.
        rule: the rule, with the values of this group.
        members: the parameters, in the order of registration.
        schedules: schedule by hyper-parameter, lengths as the recipe gives them.
        decayed: whether the route's weight decay applies.
        rate_scale: what layer-wise decay multiplied the learning rate with.
        storage: how state and weights are stored.
        stored_apart: why that is not as the recipe says; empty where it is.
    """

    name: str
    route: Route
    rule: Rule
    members: tuple[ParameterRole, ...]
    schedules: dict[str, Schedule]
    decayed: bool
    rate_scale: float = 1.0
    storage: Storage = AS_IT_IS
    stored_apart: str = ""

    @property
    def parameters(self) -> int:
        """How many numbers the members hold."""
        return sum(member.parameter.numel() for member in self.members)

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of the members."""
        return [tuple(member.parameter.shape) for member in self.members]

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the members, each once, in the order of `ROLES`."""
        present = {member.role for member in self.members}
        return tuple(role for role in ROLES if role in present)

    @property
    def why(self) -> str:
        """Which selector matched, why the route is there, why the group is apart, and what its rate is not."""
        selected = "all the rest" if isinstance(self.route.select, Everything) else repr(self.route.select)
        undecayed = "" if self.decayed else "decay would only pull these to 0"
        rate = f"{OWN_RATE} steps of {self.rule.own_rate}" if self.rule.own_rate else ""
        return "; ".join(part for part in (selected, self.route.why, undecayed, self.stored_apart, rate) if part)

    def as_param_group(self) -> dict[str, Any]:
        """The group as an optimizer takes it."""
        return {
            "params": [(member.name, member.parameter) for member in self.members],
            "rule": self.rule,
            "name": self.name,
            "role": ", ".join(self.roles),
            "why": self.why,
            **self.storage._asdict(),
        }


@dataclass(frozen=True)
class Laid:
    """What came of laying a recipe over a model.

    Attributes:
        groups: the parameter groups to be.
        frozen: the parameters that are not trained.
        deepest: the depth that layer-wise rates are counted from.
        idle: the routes that took nothing, and why.
        absent: what parts of selectors name and the model has not, a line for each.
    """

    groups: tuple[PlannedGroup, ...]
    frozen: tuple[ParameterRole, ...]
    deepest: int
    idle: tuple[tuple[Route, Idleness], ...]
    absent: tuple[str, ...]


def lay(model: nn.Module, recipe: Recipe) -> Laid:
    """The groups that the recipe makes of the model's trainable parameters.

    Raises:
        TypeError: for a model that is no module.
        ValueError: for a model with nothing to train.
        RecipeError: where recipe and model do not fit, naming every mistake.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a recipe is laid over a torch.nn.Module, got {type(model).__name__}")
    found = Mistakes()
    subject = f"{f'recipe {recipe.name!r}' if recipe.name else 'this recipe'} on {type(model).__name__}"
    entries: list[ParameterRole] = []
    with found.at():
        entries = parameter_roles(model, recipe.roles, recipe.depths)
    found.raise_if_any(subject)
    trainable = [entry for entry in entries if entry.parameter.requires_grad]
    if not trainable:
        reason = f"all {len(entries)} are frozen (requires_grad=False)" if entries else "it has none at all"
        raise ValueError(f"{type(model).__name__} has no parameters to train: {reason}")
    return lay_over(entries, recipe, subject)


def lay_over(entries: Sequence[ParameterRole], recipe: Recipe, subject: str) -> Laid:
    """The groups that the recipe makes of those of these parameters that are trained; errors speak of `subject`.

    Raises RecipeError where recipe and parameters do not fit, naming every mistake.
    """
    found = Mistakes()
    trainable = [entry for entry in entries if entry.parameter.requires_grad]
    taken = _taken(recipe, trainable, found)
    absent = _absent(recipe, entries, found)
    last = deepest(entries)
    groups: list[PlannedGroup] = []
    for route in recipe.routes:
        with found.at(f"route {route.name!r}"):
            groups += _groups(recipe, route, taken[route.name], last)
        _check_fit([group for group in groups if group.route is route], found)
    if groups and not any(has_blocks(group.rule, group.shapes) for group in groups):
        with found.at():
            check_storage(groups[0].rule, groups[0].shapes, Storage(recipe.state_dtype))
    names = [group.name for group in groups]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.found.append(f"{names.count(name)} groups would be called {name!r}; give their routes other names")
    found.raise_if_any(subject)
    return Laid(
        groups=tuple(groups),
        frozen=tuple(entry for entry in entries if not entry.parameter.requires_grad),
        deepest=last,
        idle=tuple((route, _idleness(route, entries)) for route in recipe.routes if not taken[route.name]),
        absent=absent,
    )


def _taken(recipe: Recipe, trainable: Sequence[ParameterRole], found: Mistakes) -> dict[str, list[ParameterRole]]:
    """What each route takes, by its name: the first that matches a parameter has it."""
    taken: dict[str, list[ParameterRole]] = {route.name: [] for route in recipe.routes}
    homeless: list[str] = []
    for entry in trainable:
        routes = [route for route in recipe.routes if route.select(entry)]
        if routes:
            taken[routes[0].name].append(entry)
            _check_tied(entry, routes, found)
        else:
            homeless.append(entry.name)
    if homeless:
        way_out = "add a last route without `select`, or freeze what is not to be trained"
        found.found.append(f"no route takes {some(homeless, EXAMPLES)}; {way_out}")
    return taken


def _check_tied(entry: ParameterRole, routes: Sequence[Route], found: Mistakes) -> None:
    """A tied parameter that two routes ask for, each by another of its names, is nobody's by right."""
    asked = routes[0].select.by_name(entry)
    for route in routes[1:]:
        also = route.select.by_name(entry)
        if asked and also and not asked & also:
            first, second = min(asked), min(also)
            found.found.append(
                f"{first!r} and {second!r} are one tied parameter, which route {routes[0].name!r} takes by the one "
                f"name and route {route.name!r} by the other; name it in one of them, and take it out of the other by "
                f"& ~name({first!r})"
            )


def _absent(recipe: Recipe, entries: Sequence[ParameterRole], found: Mistakes) -> tuple[str, ...]:
    """What parts of selectors name and the model has not; a selector that takes nothing because of it is a mistake."""
    names = {name for entry in entries for name in entry.names}
    modules = {name[:end] for name in names for end, letter in enumerate(name) if letter == "."}
    known = sorted(names | modules | {kind for entry in entries for kind in entry.module_classes})

    def said(place: str, select: Selector, lost: Selector) -> str:
        hint = next((hint for word in lost.speaks_of if (hint := nearest(word, known))), "")
        return f"{place}: {select!r} matches no parameter{hint}"

    absent: list[str] = []
    places = {f"route {route.name!r}": route.select for route in recipe.routes} | {"undecayed": recipe.undecayed}
    for place, select in places.items():
        lost = [part for part in select.parts if part.speaks_of and not any(map(part, entries))]
        asked = [part for part in lost if set(part.speaks_of) <= set(select.speaks_of)]  # and not excluded
        if asked and not any(map(select, entries)):
            found.found.append(said(place, select, asked[0]))
        else:
            absent += [said(place, part, part) for part in lost]
    return tuple(absent)


def _idleness(route: Route, entries: Sequence[ParameterRole]) -> Idleness:
    matched = [entry for entry in entries if route.select(entry)]
    if not matched:
        return "unmatched"
    return "shadowed" if any(entry.parameter.requires_grad for entry in matched) else "frozen"


def _check_fit(groups: Sequence[PlannedGroup], found: Mistakes) -> None:
    """The rule of a route's groups can update each parameter; the first that it cannot is named, others are counted."""
    wrong = Mistakes()
    for group in groups:
        for member in group.members:
            with wrong.at():
                check_fit(group.rule, member.parameter, repr(member.name), storage=group.storage)
        with wrong.at():
            check_storage(group.rule, group.shapes, group.storage)
    if wrong.found:
        more = f" (and {len(wrong.found) - 1} more)" if len(wrong.found) > 1 else ""
        found.found.append(f"route {groups[0].route.name!r}: {wrong.found[0]}{more}")


def _groups(recipe: Recipe, route: Route, members: Sequence[ParameterRole], last: int) -> list[PlannedGroup]:
    """The groups of one route: one for each depth, each way to decay and each way to split matrices."""
    rule = recipe.rule_of(route)
    if recipe.layer_decay is not None and rule.values()["lr"] is None:
        raise ValueError(
            f"layer_decay multiplies lr, and {type(rule).__name__} has none here; set lr, or no layer_decay"
        )
    splits = "split_dim" in rule.field_names() and "split" not in {*route.hyper_parameters, *recipe.defaults}
    storage = recipe.storage_of(route)
    if route.state_dtype is None and not has_blocks(rule, [tuple(member.parameter.shape) for member in members]):
        storage = storage._replace(state_dtype=None if in_blocks(storage.state_dtype) else storage.state_dtype)
    keeps_embeddings = route.state_dtype is None and in_blocks(storage.state_dtype)
    apart: defaultdict[tuple[bool, int, Split, bool], list[ParameterRole]] = defaultdict(list)
    for member in members:
        depth = -1 if recipe.layer_decay is None else member.depth
        split = (member.split, member.split_dim) if splits and member.split else WHOLE
        wide = keeps_embeddings and member.role == "embedding"
        apart[recipe.undecayed(member), depth, split, wide].append(member)
    groups = []
    for (undecayed, depth, (blocks, dim), wide), those in sorted(apart.items(), key=lambda item: item[0]):
        scale = 1.0 if recipe.layer_decay is None else recipe.layer_decay ** (last - depth)
        values: dict[str, Any] = {}
        words = [route.name]
        if undecayed:
            values["weight_decay"] = 0.0
            words.append("undecayed")
        if recipe.layer_decay is not None:
            values["lr"] = rule.lr * scale
            words.append(f"depth {depth}")
        if blocks:
            values["split"] = len(blocks) if len(set(blocks)) == 1 else blocks
            values["split_dim"] = dim
            words.append(f"split {'+'.join(map(str, blocks))}{' columns' if dim == -1 else ''}")
        if wide:
            words.append("embeddings")
        groups.append(
            PlannedGroup(
                name=" ".join(words),
                route=route,
                rule=rule.but(**values),
                members=tuple(those),
                schedules=recipe.schedules_of(route),
                decayed=not undecayed,
                rate_scale=scale,
                storage=storage._replace(state_dtype="float32") if wide else storage,
                stored_apart=_WIDE if wide else "",
            )
        )
    return groups
