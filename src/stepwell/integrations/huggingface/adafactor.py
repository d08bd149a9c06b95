"""The schedule that only tells: for an optimizer that finds its own learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stepwell.integrations.huggingface.optimizers import Adafactor, TransformersAdafactor


@dataclass(frozen=True)
class _Always:
    """The same factor at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


class AdafactorSchedule(LambdaLR):
    """Tells the rates that an Adafactor with relative steps has worked out; `initial_lr` before its first step.

    `step()` writes them into the groups, for loggers that look there; the optimizer overlooks them.

    Args:
        optimizer: `stepwell.integrations.huggingface.Adafactor`, another optimizer that runs its rule, or transformers'
            own: one that has `_get_lr(group, state)`.
        initial_lr: what to tell before there is a rate.

    Raises:
        TypeError: an optimizer that finds no rates of its own.
        ValueError: a group with `relative_step=False`, whose rate this would set to `initial_lr` for good.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float = 0.0) -> None:
        if not hasattr(optimizer, "_get_lr") and not _runs_ours(optimizer):
            raise TypeError(
                f"AdafactorSchedule tells the rates that transformers' Adafactor finds; {type(optimizer).__name__} "
                "does not say what it finds, so schedule its rate with get_scheduler"
            )
        self.initial_lr = initial_lr
        for index, group in enumerate(optimizer.param_groups):
            if group.get("relative_step") is False:
                raise ValueError(
                    f"AdafactorSchedule needs relative_step=True, got False in group {group.get('name', index)!r}; "
                    "schedule its rate with get_scheduler"
                )
        for group in optimizer.param_groups:
            group["initial_lr"] = initial_lr
        super().__init__(optimizer, _Always(initial_lr))
        for group in optimizer.param_groups:
            del group["initial_lr"]

    def get_lr(self) -> list[Any]:
        """The rate of each group: that of its first parameter that has been updated, else the initial one."""
        optimizer: Any = self.optimizer
        return [self._rate(optimizer, group) for group in optimizer.param_groups]

    def _rate(self, optimizer: Any, group: dict[str, Any]) -> Any:
        states = (optimizer.state.get(parameter) for parameter in group["params"])
        moved = next((state for state in states if state), None)
        tell = getattr(optimizer, "_get_lr", Adafactor._get_lr)
        return self.initial_lr if moved is None else tell(group, moved)


def _runs_ours(optimizer: Optimizer) -> bool:
    """Whether every group runs the rule, also within what Accelerate has prepared."""
    return all(group.get("rule") == TransformersAdafactor.__name__ for group in optimizer.param_groups)


def get_adafactor_schedule(optimizer: Optimizer, initial_lr: float = 0.0) -> AdafactorSchedule:
    """A schedule that tells the rates of an Adafactor with relative steps: `AdafactorSchedule`."""
    return AdafactorSchedule(optimizer, initial_lr)
