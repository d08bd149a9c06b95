"""What in a plan is likely not meant: warnings, each in one line with the way out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stepwell.advice.tables import FROM_ADAMW, LEARNING_RATES, MUON_ORIGINAL, Range
from stepwell.planning.course import course
from stepwell.planning.laying import Idleness, Laid, PlannedGroup
from stepwell.recipes import Route
from stepwell.roles import ParameterRole
from stepwell.rules.rule import Rule
from stepwell.select import Everything
from stepwell.text.tabular import some

EXAMPLES = 3
# A weight as large as most initialisations make it, where the plan cannot look: the standard deviation of GPT-2's.
TYPICAL_WEIGHT = 0.02
LOOKED_AT = 1 << 16  # numbers of a weight, enough for their size
# Ranges of rates are rules of thumb: what lies beside one by less than an order of magnitude is nobody's mistake.
FAR = 10.0


@dataclass(frozen=True)
class Doubt:
    """One warning.

    Attributes:
        kind: what it is about, in a word or two that programs can ask for.
        text: the warning, in one line.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


def doubts(laid: Laid, horizon: int | None, counted: int | None) -> Iterator[Doubt]:
    """The warnings of a recipe laid over a model.

    Args:
        laid: the groups.
        horizon: total optimizer steps, if known.
        counted: the steps that the data loader gives, if it is known.
    """
    yield from (_idle(route, why) for route, why in laid.idle if not isinstance(route.select, Everything))
    yield from (Doubt("unmatched", text) for text in laid.absent)
    yield from _tied(laid)
    if laid.frozen:
        count = sum(entry.parameter.numel() for entry in laid.frozen)
        yield Doubt("frozen", f"{_names(laid.frozen)} ({count:,} numbers) will not be trained: requires_grad=False")
    for group in laid.groups:
        yield from _misplaced(group)
        yield from _too_small(group, horizon)
    yield from _rates(laid.groups)
    yield from _schedules(laid.groups, horizon)
    if counted is not None and horizon is not None and counted != horizon:
        ends = "ends early, on a schedule that is not done" if counted < horizon else "goes on past the schedule's end"
        yield Doubt("horizon", f"the horizon is {horizon:,} steps, but the loader gives {counted:,}: training {ends}")


def _names(entries: Iterable[ParameterRole]) -> str:
    return some([entry.name for entry in entries], EXAMPLES)


def _idle(route: Route, why: Idleness) -> Doubt:
    said = {
        "shadowed": ("unused", f"earlier routes take all that {route.select!r} matches"),
        "frozen": ("unused", f"all that {route.select!r} matches is frozen"),
        "unmatched": ("unmatched", f"no parameter is {route.select!r}"),
    }
    kind, text = said[why]
    return Doubt(kind, f"route {route.name!r} takes nothing: {text}")


def _tied(laid: Laid) -> Iterator[Doubt]:
    """Tied parameters that a route asks for by another of their names, while they are taken not for any name."""
    routes = {group.route.name: group.route for group in laid.groups} | {route.name: route for route, _ in laid.idle}
    for group in laid.groups:
        for member in group.members:
            if not member.aliases or group.route.select.by_name(member):
                continue
            for route in routes.values():
                asked = route.select.by_name(member)
                if route is not group.route and asked and member.name not in asked and route.select(member):
                    yield Doubt(
                        "tied",
                        f"{min(asked)!r} is one tensor with {member.name!r}: route {group.route.name!r} takes it, and "
                        f"route {route.name!r}, which asks for it by name, does not get it",
                    )


def _misplaced(group: PlannedGroup) -> Iterator[Doubt]:
    rule = type(group.rule).__name__
    if group.rule.acts_on == "matrices":
        tables = [member for member in group.members if member.role in ("embedding", "head")]
        if tables:
            yield Doubt(
                "matrix rule",
                f"{_names(tables)} under {rule}: the rows of an embedding or head are apart, and its paper leaves them "
                "to a rule of elements; route them to AdamW",
            )
    if group.rule.weight_decay and group.decayed:
        offsets = [member for member in group.members if member.role in ("norm", "bias")]
        if offsets:
            yield Doubt(
                "decay",
                f"weight decay {group.rule.weight_decay:g} on {_names(offsets)}: decay pulls gains and offsets to 0; "
                "leave `undecayed` as it is",
            )


def _too_small(group: PlannedGroup, horizon: int | None) -> Iterator[Doubt]:
    """16-bit weights whose step is below half the distance to the next number, and no master keeps what is lost."""
    if group.storage.master is not None or not group.rule.moves_by_rate:
        return
    way = course(group.rule.lr, group.schedules.get("lr"), horizon)
    peak = group.rule.lr if way is None else way.peak
    lost = [
        member
        for member in group.members
        if member.parameter.dtype in (torch.bfloat16, torch.float16)
        and member.parameter.ndim > 1
        and peak < _least_step(member.parameter)
    ]
    if lost:
        weight = lost[0].parameter
        yield Doubt(
            "rounding",
            f"{_names(lost)} are {str(weight.dtype).removeprefix('torch.')}, and steps of {peak:.2g} round to nothing "
            f"on weights of size {_size(weight):.2g}; keep the weights in float32, or give master='float32'",
        )


def _least_step(weight: Tensor) -> float:
    """Half of the distance between neighbours around a typical weight."""
    return _size(weight) * torch.finfo(weight.dtype).eps / 2


def _size(weight: Tensor) -> float:
    """The root mean square, of the first numbers of a large weight."""
    if weight.is_meta:
        return TYPICAL_WEIGHT
    return float(weight.detach().flatten()[:LOOKED_AT].float().square().mean().sqrt())


def _rates(groups: tuple[PlannedGroup, ...]) -> Iterator[Doubt]:
    said: set[tuple[str, float]] = set()
    for group in groups:
        advised = _advised(group.rule)
        if advised is None:
            continue
        kind, rate = type(group.rule).__name__, group.rule.lr / group.rate_scale
        if (kind, rate) in said:
            continue
        said.add((kind, rate))
        if not advised.low / FAR <= rate <= advised.high * FAR:
            span = f"{advised.low:g} to {advised.high:g}" if advised.low != advised.high else f"{advised.low:g}"
            yield Doubt("rate", f"lr {rate:g} is far from what is advised for {kind}: {span} ({advised.source})")


def _advised(rule: Rule) -> Range | None:
    """The rates that the tables of advice have for a rule."""
    name, values = type(rule).__name__.lower(), rule.values()
    if name == "muon":
        adamws = replace(LEARNING_RATES["adamw"], source=FROM_ADAMW["muon"][0].source)
        return adamws if values["adjust_lr_fn"] == "match_rms_adamw" else MUON_ORIGINAL
    return LEARNING_RATES.get("sgd-momentum" if name == "sgd" and values["momentum"] else name)


def _schedules(groups: tuple[PlannedGroup, ...], horizon: int | None) -> Iterator[Doubt]:
    found: dict[tuple[str, str], str] = {}
    for group in groups:
        for name, schedule in group.schedules.items():
            try:
                schedule.resolve(horizon)
            except ValueError as error:
                found.setdefault((name, repr(schedule)), str(error))
    for (name, schedule_), why in found.items():
        if horizon is None:
            yield Doubt("horizon", f"{schedule_} of {name} needs a horizon, the total number of optimizer steps")
        else:
            yield Doubt("schedule", f"{schedule_} of {name} cannot be laid over {horizon:,} steps: {why}")
