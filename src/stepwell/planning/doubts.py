"""What in a plan is likely not meant: warnings, each in one line with the way out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.advice_tables import LEARNING_RATES
from stepwell.planning.course import course
from stepwell.planning.laying import Laid, PlannedGroup
from stepwell.recipes.recipe import UNDECAYED
from stepwell.roles import ParameterRole
from stepwell.select import Everything
from stepwell.tabular import some

EXAMPLES = 3
# A weight as large as most initialisations make it, where the plan cannot look: the standard deviation of GPT-2's.
TYPICAL_WEIGHT = 0.02
# Rules whose update is about as large as the rate, element by element.
UNIT_STEP = ("Adam", "AdamW", "NAdam", "RAdam", "Lion", "SignSGD", "Tiger", "Adan", "AdaBelief", "AdEMAMix", "ADOPT")


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
    for route, matched in laid.idle:
        if matched and not isinstance(route.select, Everything):
            all_of_it = f"all that {route.select!r} matches"
            yield Doubt("unused", f"route {route.name!r} takes nothing: earlier routes take {all_of_it}")
        elif not matched:
            yield Doubt("unmatched", f"route {route.name!r} takes nothing: no trainable parameter is {route.select!r}")
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


def _tied(laid: Laid) -> Iterator[Doubt]:
    """Tied parameters that a later route asks for by name and does not get."""
    routes = list(dict.fromkeys(group.route.name for group in laid.groups)) + [route.name for route, _ in laid.idle]
    by_name = {group.route.name: group.route for group in laid.groups} | {route.name: route for route, _ in laid.idle}
    for group in laid.groups:
        for member in (each for each in group.members if each.aliases):
            for other in (by_name[name] for name in routes if name != group.route.name):
                if asked := other.select.by_name(member):
                    yield Doubt(
                        "tied",
                        f"{min(asked)!r} is one tensor with {member.name!r}: route {group.route.name!r} takes it, and "
                        f"route {other.name!r}, which asks for it by name, does not get it",
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
        offsets = [member for member in group.members if member.role in UNDECAYED[:2]]
        if offsets:
            yield Doubt(
                "decay",
                f"weight decay {group.rule.weight_decay:g} on {_names(offsets)}: decay pulls gains and offsets to 0; "
                "leave `undecayed` as it is",
            )


def _too_small(group: PlannedGroup, horizon: int | None) -> Iterator[Doubt]:
    """16-bit weights whose step is below half the distance to the next number."""
    if type(group.rule).__name__ not in UNIT_STEP:
        return
    way = course(group.rule.lr, group.schedules.get("lr"), horizon)
    peak = group.rule.lr if way is None else way.peak
    lost = [
        member
        for member in group.members
        if member.parameter.dtype == torch.bfloat16
        and member.parameter.ndim > 1
        and peak < _least_step(member.parameter)
    ]
    if lost:
        yield Doubt(
            "rounding",
            f"{_names(lost)} are bfloat16, and steps of {peak:.2g} round to nothing on weights of size "
            f"{_size(lost[0].parameter):.2g}; keep the weights in float32",
        )


def _least_step(weight: Tensor) -> float:
    """Half of the distance between neighbours around a typical weight: 8 bits of mantissa."""
    return _size(weight) * float(torch.finfo(weight.dtype).eps) / 2


def _size(weight: Tensor) -> float:
    return TYPICAL_WEIGHT if weight.is_meta else float(weight.detach().float().square().mean().sqrt())


def _rates(groups: tuple[PlannedGroup, ...]) -> Iterator[Doubt]:
    said: set[tuple[str, float]] = set()
    for group in groups:
        kind = type(group.rule).__name__.lower()
        name = "sgd-momentum" if kind == "sgd" and group.rule.values()["momentum"] else kind
        advised, rate = LEARNING_RATES.get(name), group.rule.lr / group.rate_scale
        if advised is None or (name, rate) in said:
            continue
        said.add((name, rate))
        # Ranges are rules of thumb: what lies beside one by less than its own order of magnitude is nobody's mistake.
        if not advised.low / 10 <= rate <= advised.high * 10:
            yield Doubt(
                "rate",
                f"lr {rate:g} is far from what is advised for {type(group.rule).__name__}: {advised.low:g} to "
                f"{advised.high:g} ({advised.source})",
            )


def _schedules(groups: tuple[PlannedGroup, ...], horizon: int | None) -> Iterator[Doubt]:
    said: set[str] = set()
    for group in groups:
        for name, schedule in group.schedules.items():
            try:
                schedule.resolve(horizon)
            except ValueError as error:
                if str(error) not in said:
                    said.add(str(error))
                    kind = "horizon" if horizon is None else "schedule"
                    yield Doubt(kind, f"the schedule of {name} cannot be laid out: {error}")
