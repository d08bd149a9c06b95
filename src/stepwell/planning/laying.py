"""A recipe laid over a model: which route, which group, which values, for every parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from stepwell.naming import nearest
from stepwell.recipes.mistakes import Mistakes
from stepwell.recipes.recipe import Recipe, Route
from stepwell.roles import ROLES, ParameterRole, Role, parameter_roles
from stepwell.rules.rule import Rule
from stepwell.schedules import Schedule
from stepwell.select import Everything
from stepwell.tabular import some

EXAMPLES = 3


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
    """

    name: str
    route: Route
    rule: Rule
    members: tuple[ParameterRole, ...]
    schedules: dict[str, Schedule]
    decayed: bool
    rate_scale: float = 1.0

    @property
    def parameters(self) -> int:
        """How many numbers the members hold."""
        return sum(member.parameter.numel() for member in self.members)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the members, each once, in the order of `ROLES`."""
        present = {member.role for member in self.members}
        return tuple(role for role in ROLES if role in present)

    @property
    def why(self) -> str:
        """Which selector matched, why the route is there, and why the group is apart."""
        selected = "all the rest" if isinstance(self.route.select, Everything) else repr(self.route.select)
        return "; ".join(
            part
            for part in (selected, self.route.why, "" if self.decayed else "decay would only pull these to 0")
            if part
        )

    def as_param_group(self) -> dict[str, Any]:
        """The group as an optimizer takes it."""
        return {
            "params": [(member.name, member.parameter) for member in self.members],
            "rule": self.rule,
            "name": self.name,
            "role": ", ".join(self.roles),
            "why": self.why,
        }


@dataclass(frozen=True)
class Laid:
    """What came of laying a recipe over a model."""

    groups: tuple[PlannedGroup, ...]
    frozen: tuple[ParameterRole, ...]
    idle: tuple[tuple[Route, bool], ...] = field(default=())
    """Routes that took nothing, and whether their selector matched something that an earlier route had taken."""


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
    subject = (
        f"recipe {recipe.name!r} on {type(model).__name__}" if recipe.name else f"this recipe on {type(model).__name__}"
    )
    entries: list[ParameterRole] = []
    with found.at():
        entries = parameter_roles(model, recipe.roles, *((recipe.depths,) if recipe.depths else ()))
    trainable = [entry for entry in entries if entry.parameter.requires_grad]
    found.raise_if_any(subject)
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
    taken: dict[str, list[ParameterRole]] = {route.name: [] for route in recipe.routes}
    matched: set[str] = set()
    homeless: list[str] = []
    for entry in trainable:
        routes = [route for route in recipe.routes if route.select(entry)]
        matched |= {route.name for route in routes}
        if routes:
            taken[routes[0].name].append(entry)
            _check_tied(entry, routes, found)
        else:
            homeless.append(entry.name)
    if homeless:
        way_out = "add a last route without `select`, or freeze what is not to be trained"
        found.found.append(f"no route takes {some(homeless, EXAMPLES)}; {way_out}")
    idle = []
    for route in recipe.routes:
        if not taken[route.name]:
            idle.append((route, route.name in matched))
            if route.name not in matched and route.select.speaks_of:
                found.found.append(_nothing(route, entries))
    groups: list[PlannedGroup] = []
    deepest = max(entry.depth for entry in trainable)
    for route in recipe.routes:
        with found.at(f"route {route.name!r}"):
            groups += _groups(recipe, route, taken[route.name], deepest)
    found.raise_if_any(subject)
    frozen = tuple(entry for entry in entries if not entry.parameter.requires_grad)
    return Laid(tuple(groups), frozen, tuple(idle))


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


def _nothing(route: Route, entries: Sequence[ParameterRole]) -> str:
    known = {name for entry in entries for name in entry.names}
    known |= {name.rpartition(".")[0] for name in known} | {kind for entry in entries for kind in entry.module_classes}
    hint = next((hint for word in route.select.speaks_of if (hint := nearest(word, sorted(known - {""})))), "")
    return f"route {route.name!r}: {route.select!r} matches no parameter{hint}"


def _groups(recipe: Recipe, route: Route, members: Sequence[ParameterRole], deepest: int) -> list[PlannedGroup]:
    """The groups of one route: one for each depth and each way to decay."""
    rule = recipe.rule_of(route)
    apart: defaultdict[tuple[int, int, tuple[int, ...]], list[ParameterRole]] = defaultdict(list)
    splits = "split" in rule.field_names() and "split" not in {*route.hyper_parameters, *recipe.defaults}
    for member in members:
        undecayed = int(recipe.undecayed(member))
        depth = member.depth if recipe.layer_decay is not None else -1
        apart[undecayed, depth, tuple(getattr(member, "split", ())) if splits else ()].append(member)
    groups = []
    for (undecayed, depth, split), those in sorted(apart.items(), key=lambda item: item[0]):
        scale = 1.0 if recipe.layer_decay is None else recipe.layer_decay ** (deepest - depth)
        values: dict[str, Any] = {"lr": rule.lr * scale} if recipe.layer_decay is not None else {}
        values |= {"weight_decay": 0.0} if undecayed else {}
        values |= {"split": split} if split else {}
        name = " ".join(
            (
                route.name,
                *(("undecayed",) if undecayed else ()),
                *((f"depth {depth}",) if depth >= 0 else ()),
                *((f"split {'+'.join(map(str, split))}",) if split else ()),
            )
        )
        groups.append(
            PlannedGroup(
                name=name,
                route=route,
                rule=rule.but(**values) if values else rule,
                members=tuple(those),
                schedules=recipe.schedules_of(route),
                decayed=not undecayed,
                rate_scale=scale,
            )
        )
    return groups
