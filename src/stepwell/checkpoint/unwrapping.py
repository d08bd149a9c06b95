"""The optimizer and the scheduler that a checkpoint is of, inside what Accelerate or Lightning puts around them."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer itself, without wrappers that keep nothing of their own beside it."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer) and optimizer.state is inner.state and _saves_the_same(optimizer, inner):
        return inner_optimizer(inner)
    return optimizer


def inner_scheduler(scheduler: Any) -> Any:
    """The scheduler itself, without wrappers that keep nothing of their own beside it."""
    inner = getattr(scheduler, "scheduler", None)
    if isinstance(inner, LRScheduler) and _saves_the_same(scheduler, inner):
        return inner_scheduler(inner)
    return scheduler


def _saves_the_same(outer: Any, inner: Any) -> bool:
    """Whether a state dict has the same keys for both: a Lookahead, say, has more than the optimizer inside it."""
    return hasattr(outer, "state_dict") and outer.state_dict().keys() == inner.state_dict().keys()
