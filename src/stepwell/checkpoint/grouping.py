"""Which of a checkpoint's parameter groups is which of an optimizer's, and the values that it brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from stepwell.checkpoint.differences import Difference
from stepwell.checkpoint.plain import decode
from stepwell.checkpoint.saving import class_name
from stepwell.optimizer import Optimizer as StepwellOptimizer
from stepwell.text.naming import ENGINE_FLAGS


@dataclass
class MatchedGroup:
    """One live group.

    Attributes:
        where: what messages call it.
        values: what a state dict says of it, in the optimizer's own order of parameters.
        comparable: whether the values are those of a saved group.
        keeps_state: whether the saved state of its parameters is of its rule.
    """

    where: str
    values: dict[str, Any]
    comparable: bool
    keeps_state: bool


def matched_groups(
    section: Mapping[str, Any],
    optimizer: Optimizer,
    live_groups: list[dict[str, Any]],
    names: list[list[str]],
    read: Callable[[Any], Tensor],
    differences: list[Difference],
) -> Iterator[MatchedGroup]:
    """The live groups, each with the values of the saved group that its parameters were in.

    `live_groups` are as the optimizer's state dict has them. Where the parameters of one were in several groups,
    or share one with those of other live groups, none of them is the one: the live values stay, and that is a
    difference.
    """
    saved = [{key: decode(value, read) for key, value in group.items()} for group in section["groups"]]
    place = {name: index for index, group in enumerate(saved) for name in group["params"]}
    origins = [{place[name] for name in those if name in place} for those in names]
    start = 0
    for index, (live, those) in enumerate(zip(live_groups, names, strict=True)):
        where = f"group {live.get('name', index)!r}"
        position = {key: live[key] for key in ("param_names",) if key in live}
        position["params"] = list(range(start, start + len(those)))
        start += len(those)
        here, theirs = (
            rule_of(live, class_name(optimizer)),
            {rule_of(saved[i], section["class"]) for i in origins[index]},
        )
        own = {key: value for key, value in live.items() if key != "fingerprint"}
        averages = saved_averages([saved[i] for i in sorted(origins[index])], those)
        if theirs - {here}:
            differences.append(Difference("changed", f"the rule of {where}", here, ", ".join(sorted(theirs))))
            yield MatchedGroup(where, {**own, **position}, comparable=False, keeps_state=False)
        elif len(origins[index]) != 1 or any(
            origins[index] & other for other in [*origins[:index], *origins[index + 1 :]]
        ):
            if origins[index]:
                differences.append(Difference("changed", f"what was grouped with the parameters of {where}"))
            yield MatchedGroup(where, {**own, **averages, **position}, comparable=False, keeps_state=True)
        else:
            (there,) = (saved[i] for i in origins[index])
            values = {key: value for key, value in there.items() if key not in ENGINE_FLAGS and key not in _OF_AVERAGES}
            if not isinstance(optimizer, StepwellOptimizer):  # it would take whatever stands in the group
                known = {key: value for key, value in values.items() if key in live or key.startswith("initial_")}
                values = {**own, **known}
            yield MatchedGroup(where, {**values, **averages, **position}, comparable=True, keeps_state=True)


_OF_AVERAGES = ("holds", "fingerprint")


def saved_averages(groups: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """What the groups say of the weights that were saved (`stepwell.averaging`), for these parameters."""
    modes = {group["holds"] for group in groups if "holds" in group}
    if len(modes) != 1:
        return {}
    samples = {
        name: sample
        for group in groups
        for name, sample in zip(group["params"], group.get("fingerprint", ()), strict=False)
    }
    found: dict[str, Any] = {"holds": modes.pop()}
    if all(name in samples for name in names):
        found["fingerprint"] = [samples[name] for name in names]
    return found


def rule_of(group: Mapping[str, Any], of_class: str) -> str:
    """The rule of a group; an optimizer of another package has one that is called as its class."""
    return str(group.get("rule", of_class.rpartition(".")[2]))
