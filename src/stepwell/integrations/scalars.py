"""What an optimizer has to say, as plain numbers for a logger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


def bare(optimizer: Any) -> Any:
    """The optimizer itself, where Accelerate, Lightning or another wrapper holds it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def scalars(optimizer: Any) -> dict[str, float]:
    """The learning rate of every group by its name, and what else the optimizer has counted or measured.

    "lr/NAME" for each group, "gradient_norm" where the optimizer has worked it out, "skipped_steps" where it has left
    steps out, and the numbers of its `telemetry`, where it keeps one.
    """
    inner = bare(optimizer)
    found = {rate_name(group, index): float(group["lr"]) for index, group in enumerate(inner.param_groups)}
    if getattr(inner, "gradient_norm", None) is not None:
        found["gradient_norm"] = float(inner.gradient_norm)
    if getattr(inner, "skipped", 0):
        found["skipped_steps"] = float(inner.skipped)
    telemetry = getattr(inner, "telemetry", None)
    if isinstance(telemetry, dict):
        found |= {name: float(value) for name, value in telemetry.items() if isinstance(value, (int, float))}
    return found


def rate_name(group: Mapping[str, Any], index: int) -> str:
    """What the rate of a group is called: after the group's name, else its number."""
    return f"lr/{group.get('name') or index}"
