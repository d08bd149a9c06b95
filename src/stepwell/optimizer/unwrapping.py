"""Optimizers inside the wrappers of other libraries."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def bare(optimizer: Any) -> Any:
    """The optimizer itself, where Accelerate, Lightning or another wrapper holds it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer
