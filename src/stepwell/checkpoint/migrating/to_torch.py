"""A checkpoint of ours as what `torch.optim` takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from stepwell.checkpoint import folder
from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.migrating.rules import inner
from stepwell.checkpoint.migrating.source import SavedGroup, of_checkpoint
from stepwell.optimizer.groups import NOTES, STORAGE
from stepwell.optimizer.loading import TORCH_HAS_A_FLAG
from stepwell.rules.registry import rule_class

# What a rule of ours may do and torch's does not, with the value at which it does the same.
_ALONE = {"average": False, "correct_bias": True, "relative_step": False, "warmup_init": False, "beta1": None}
# What of a group means nothing to torch, which has the names.
_OURS = frozenset(("rule", "decay", "average", "correct_bias", "fingerprint", *STORAGE, *NOTES)) - {"param_names"}


def torch_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dicts of a checkpoint for torch's own: `optimizer.load_state_dict(torch_state(path)["optimizer"])`.

    Args:
        path: a folder of checkpoints, of which the newest is taken, or one of them.

    Returns:
        "model" with its tensors; "optimizer" with the state dict of an optimizer whose groups are as they were saved,
        or, where there are several rules, which torch has no optimizer for, "optimizers" with one for each rule;
        "step" of the scheduler, and "extra". All of it loads with `weights_only=True`.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or torch has no optimizer that does the same.
    """
    source = of_checkpoint(folder.find(Path(path)))
    found: dict[str, Any] = {}
    if source.weights is not None:
        tied = {name: source.weights[first] for name, first in source.tied.items()}
        found["model"] = {**source.weights, **tied}
    rules = dict.fromkeys(inner(group.rule) for group in source.groups)
    for group in source.groups:
        _check(group, source.title)
    states = {rule: _state([group for group in source.groups if inner(group.rule) == rule]) for rule in rules}
    if len(states) == 1:
        (found["optimizer"],) = states.values()
    elif states:
        found["optimizers"] = states
    if source.step is not None:
        found["step"] = source.step
    if source.extra:
        found["extra"] = source.extra
    return found


def _check(group: SavedGroup, title: str) -> None:
    """Raise CheckpointError where torch cannot go on with the group."""
    rule = inner(group.rule)
    if not hasattr(torch.optim, rule):
        raise CheckpointError(f"{title} is of {rule}, and torch.optim has no such optimizer")
    if group.rule not in (rule, f"ema({rule})"):  # an average beside the weights changes no step
        raise CheckpointError(f"{title} is of {group.rule}, and torch.optim.{rule} takes other steps")
    for name, value in _ALONE.items():
        if group.values.get(name, value) != value:
            raise CheckpointError(f"{title} has {name}={group.values[name]!r}, which torch.optim.{rule} does not have")
    ways = ("coupled", "decoupled") if rule in TORCH_HAS_A_FLAG else (rule_class(rule)().decay,)
    if group.values.get("weight_decay") and group.values.get("decay", ways[0]) not in ways:
        raise CheckpointError(
            f"{title} has {group.values['decay']} weight decay, which torch.optim.{rule} does not have"
        )


def _state(groups: list[SavedGroup]) -> dict[str, Any]:
    state: dict[int, Any] = {}
    described: list[dict[str, Any]] = []
    start = 0
    for group in groups:
        count = len(group.states)
        values = {name: value for name, value in group.values.items() if name not in _OURS}
        described.append({**values, "params": list(range(start, start + count)), "param_names": group.names})
        state |= {start + index: _slots(slots) for index, slots in enumerate(group.states) if slots}
        start += count
    return {"state": state, "param_groups": described}


def _slots(slots: dict[str, Any]) -> dict[str, Any]:
    """Slots as torch has them: the step is a tensor."""
    step = {"step": torch.tensor(float(slots["step"]), dtype=torch.float32, device="cpu")} if "step" in slots else {}
    return {**slots, **step}
