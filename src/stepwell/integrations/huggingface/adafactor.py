"""The schedule that only tells: for an optimizer that finds its own learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class _Always:
    """The same factor at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


class AdafactorSchedule(LambdaLR):
    """Tells the rates that an Adafactor with relative steps has worked out; `initial_lr` before its first step.

    Args:
        optimizer: one that has `_get_lr(group, state)`, as transformers' Adafactor does.
        initial_lr: what to tell before there is a rate.

    Raises TypeError for an optimizer that finds no rates of its own.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float = 0.0) -> None:
        if not hasattr(optimizer, "_get_lr"):
            raise TypeError(
                f"AdafactorSchedule tells the rates of an Adafactor with relative steps; {type(optimizer).__name__} "
                "finds none, so schedule its rate with get_scheduler"
            )
        for group in optimizer.param_groups:
            group["initial_lr"] = initial_lr
        super().__init__(optimizer, _Always(initial_lr))
        for group in optimizer.param_groups:
            del group["initial_lr"]

    def get_lr(self) -> list[Any]:
        """The rate of each group: of its first parameter that has been updated, else the initial one."""
        optimizer: Any = self.optimizer
        rates = []
        for base, group in zip(self.base_lrs, optimizer.param_groups, strict=False):
            moved = next((p for p in group["params"] if p.grad is not None and optimizer.state[p]), None)
            rates.append(base if moved is None else optimizer._get_lr(group, optimizer.state[moved]))
        return rates
