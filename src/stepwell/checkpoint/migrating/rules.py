"""What one rule's slots mean to another rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule
from stepwell.rules.schedule_free import Interpolation

How = Literal["kept", "converted", "fresh"]

# Running means of the gradient and of its square that start at 0, with the step to correct them: all of one meaning.
_MOMENTS = frozenset({"Adam", "AdamW", "RAdam", "LAMB"})

# The slot that is a running mean of the gradient, started at 0 …
_MEAN_OF_GRADIENTS = {
    **dict.fromkeys(
        ("Adam", "AdamW", "RAdam", "LAMB", "NAdam", "Adamax", "AdaBelief", "Yogi", "AdamMini", "Adan", "Lion", "Tiger"),
        "exp_avg",
    ),
    "AdEMAMix": "exp_avg_fast",
    **dict.fromkeys(("SignSGD", "Muon", "NorMuon", "AdaMuon", "Scion"), "momentum_buffer"),
}
# … and the rules that need nothing but such a mean, and do not correct it: Adam's would be worth nothing without its
# second moment, and a second moment that starts at 0 in mid-training makes the first steps huge.
_NEEDS_ONLY_THAT = ("Lion", "Tiger", "SignSGD", "Muon", "Scion")


@dataclass(frozen=True)
class Brought:
    """The state that a parameter begins with under another rule.

    Attributes:
        how: "kept" as it was, "converted", or "fresh".
        what: the slots, or why there are none.
        state: the slots by name, and the step.
    """

    how: How
    what: str
    state: dict[str, Any] = field(default_factory=dict)


def brought(state: Mapping[str, Any], old: str, new: str, rule: Rule | None, shape: tuple[int, ...]) -> Brought:
    """What of a parameter's state its new rule can begin with.

    Args:
        state: the slots by name, and the step.
        old: the name of the rule that they are of; empty where it is not known.
        new: the name of the new rule.
        rule: the new rule, fitted to the parameter; None for an optimizer of another package, which takes what it is
            given.
        shape: the parameter's shape.
    """
    if not state:
        return Brought("fresh", "there was no state")
    slots = _slots(old or new, new)
    if not slots:
        why = "it starts from the weights" if interpolates(new) else f"{old}'s state means nothing to {new}"
        return Brought("fresh", why)
    declared = None if rule is None else {slot.name: slot for slot in rule.slot_list()}
    found: dict[str, Any] = {}
    for theirs, value in state.items():
        name = slots.get(theirs, theirs if "*" in slots else None)
        if name is None or theirs == "step" or value is None:
            continue
        if declared is not None and rule is not None:
            slot = declared.get(name)
            if slot is None:
                continue
            if not slot.scalar and (not isinstance(value, Tensor) or value.shape != rule.slot_shape(slot, shape)):
                return Brought("fresh", f"its slot {theirs!r} has another shape")
        found[name] = value
    needed = {name for name, slot in (declared or {}).items() if not slot.scalar}
    if not found and needed:
        return Brought("fresh", f"there was no {' or '.join(sorted(needed))}")
    renamed = {ours: theirs for theirs, ours in slots.items() if ours != theirs}
    what = ", ".join(f"{renamed[name]} as {name}" if name in renamed else name for name in found) or "the step"
    if "step" in state:
        found["step"] = int(state["step"])
    return Brought("converted" if renamed else "kept", what, found)


def _slots(old: str, new: str) -> dict[str, str]:
    """The slots of the old rule that mean something to the new one, and what they are called there; "*" is all."""
    if old == new:
        return {"*": "*"}
    if interpolates(old) or interpolates(new):
        return {}
    old, new = inner(old), inner(new)
    if old == new:
        return {"*": "*"}
    if old in _MOMENTS and new in _MOMENTS:
        return {name: name for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
    if old in _MEAN_OF_GRADIENTS and new in _NEEDS_ONLY_THAT:
        return {_MEAN_OF_GRADIENTS[old]: _MEAN_OF_GRADIENTS[new]}
    return {}


def inner(name: str) -> str:
    """The rule inside wrappers that leave its slots what they are: "AdamW" for "cautious(AdamW)"."""
    while "(" in name and not interpolates(name):
        name = name.partition("(")[2].removesuffix(")")
    return name


def interpolates(name: str) -> bool:
    """Whether weights under this rule lie between a fast sequence and its average: no other rule goes on from them."""
    try:
        return issubclass(rule_class(name), Interpolation)
    except (ValueError, TypeError):
        return False  # a rule of another package
