"""The whole story of one parameter in a plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stepwell.codecs import AS_IT_IS, FEWEST_IN_BLOCKS, WEIGHTS, codecs_for, in_blocks
from stepwell.planning.laying import PlannedGroup
from stepwell.roles import ParameterRole
from stepwell.text.naming import nearest
from stepwell.text.tabular import some

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan

EXAMPLES = 2


def explanation(plan: Plan, name: str) -> str:
    """What the parameter is, which route takes it and why, and its values, in lines.

    Raises ValueError with the nearest name.
    """
    for group in plan.groups:
        for member in group.members:
            if name in member.names:
                return "\n".join(_story(plan, group, member))
    for entry in plan.frozen:
        if name in entry.names:
            reason = "frozen: requires_grad=False, so it is in no group and never changed"
            return "\n".join((*_identity(entry), reason))
    entries = [*(member for group in plan.groups for member in group.members), *plan.frozen]
    known = [each for entry in entries for each in entry.names]
    inside = [each for each in known if each.startswith(f"{name}.")]
    hint = f"; in that module there are {some(inside, EXAMPLES)}" if inside else nearest(name, known)
    raise ValueError(f"the model has no parameter {name!r}{hint}")


def _story(plan: Plan, group: PlannedGroup, member: ParameterRole) -> list[str]:
    lines = _identity(member)
    for route in plan.recipe.routes:
        taken = route.select(member)
        lines.append(f"route {route.name!r}: {route.select!r} {'takes it' if taken else 'does not'}")
        if taken:
            break
    if group.route.why:
        lines.append(f"because: {group.route.why}")
    if not group.decayed:
        lines.append(f"undecayed: {plan.recipe.undecayed!r} takes it")
    if plan.recipe.layer_decay is not None:
        above = plan.deepest - member.depth
        lines.append(
            f"layer-wise rate: depth {member.depth} of {plan.deepest}, "
            f"{plan.recipe.layer_decay:g}^{above} = {group.rate_scale:.4g} of the rate"
        )
    values = ", ".join(f"{name}={value!r}" for name, value in group.rule.values().items())
    lines.append(f"group {group.name!r}: {type(group.rule).__name__}({values})")
    for name, schedule in group.schedules.items():
        way = plan.course(group, name)
        lines.append(f"{name}: {schedule!r}{'' if way is None else f', so {way}'}")
    if group.rule.own_rate:
        lines.append(f"lr is not the length of its steps: that is {group.rule.own_rate}")
    lines += _stored(group, member)
    return lines


def _identity(entry: ParameterRole) -> list[str]:
    parameter = entry.parameter
    shape = " × ".join(map(str, parameter.shape)) or "a number"
    lines = [
        f"{entry.name}: {shape}, {math.prod(parameter.shape):,} numbers, {str(parameter.dtype).removeprefix('torch.')}",
        f"role: {entry.role} ({entry.why}), depth {entry.depth}",
    ]
    if entry.aliases:
        lines.append(f"tied with: {', '.join(entry.aliases)}")
    return lines


def _stored(group: PlannedGroup, member: ParameterRole) -> list[str]:
    """How the state and, where that is asked for, the weights of a parameter are stored."""
    parameter = member.parameter
    shape = tuple(parameter.shape)
    codecs = codecs_for(group.rule.fit(shape), shape, parameter.dtype, group.storage)
    weights, slots = codecs.pop(WEIGHTS), codecs.items()
    if group.storage == AS_IT_IS:
        return [f"state: {', '.join(codecs) or 'none'}"]
    lines = [f"state: {', '.join(f'{name} as {codec.word}' for name, codec in slots) or 'none'}"]
    if group.stored_apart:
        lines.append(f"because: {group.stored_apart}")
    elif in_blocks(group.storage.state_dtype) and parameter.numel() < FEWEST_IN_BLOCKS:
        lines.append(f"because: with fewer than {FEWEST_IN_BLOCKS} elements there is little to save")
    if group.storage.master is not None and parameter.dtype.itemsize < 4:
        lines.append(f"weights: {weights.word}")
    return lines
