"""What an optimizer has to say, as plain numbers for a logger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.optimizer.unwrapping import bare


def scalars(optimizer: Any) -> dict[str, float]:
    """The learning rate of every group by its name, and what else the optimizer has counted or measured.

    "lr/NAME" for each group, "gradient_norm" where the optimizer has worked it out, "skipped_steps" where it has left
    steps out, and, of a `stepwell.Optimizer` that is observed, "update_rms/NAME", "weight_rms/NAME",
    "gradient_rms/NAME" and "update_to_weight/NAME" for each group. All are plain floats, for TensorBoard, Weights &
    Biases and whatever else draws scalars.
    """
    inner = bare(optimizer)
    found = {rate_name(group, index): float(group["lr"]) for index, group in enumerate(inner.param_groups)}
    if getattr(inner, "gradient_norm", None) is not None:
        found["gradient_norm"] = float(inner.gradient_norm)
    if getattr(inner, "skipped", 0):
        found["skipped_steps"] = float(inner.skipped)
    if getattr(inner, "observed", False):
        for group, reading in inner.telemetry().items():
            found |= {f"{what}/{group}": value for what, value in reading.items()}
    return found


def rate_name(group: Mapping[str, Any], index: int) -> str:
    """What the rate of a group is called: after the group's name, else its number."""
    return f"lr/{group.get('name') or index}"
