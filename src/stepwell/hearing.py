"""Hearing of the steps that an optimizer takes, through torch's hooks: the optimizer itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from stepwell.snapshot import is_open


def hear(optimizer: Optimizer, *, before: Callable[[], None], taken: Callable[[], None] | None = None) -> None:
    """Be told of an optimizer's steps.

    Args:
        optimizer: any, also one inside a wrapper that has no hooks of its own, as Accelerate's has none.
        before: called before each step.
        taken: called after each step that was taken: not after one that a GradScaler or `on_nonfinite="skip"` left
            out, nor after one that a `Snapshot` will take back.

    Raises TypeError where `taken` is wanted of an optimizer that has no hooks, inside or out.
    """
    hooked: Any = optimizer
    while hooked is not None and not hasattr(hooked, "_optimizer_step_pre_hooks"):
        hooked = getattr(hooked, "optimizer", None)
    if hooked is None:
        if taken is None:
            return  # new groups are then found at the scheduler's own next step
        raise TypeError(
            f"counts='steps' needs an optimizer with the hooks of torch.optim.Optimizer, which a "
            f"{type(optimizer).__name__} has not: give the optimizer that it wraps, or counts='calls'"
        )
    skipped = getattr(hooked, "skipped", 0)

    def before_step(*_: Any) -> None:
        before()

    def after_step(*_: Any) -> None:
        nonlocal skipped
        skipped_before, skipped = skipped, getattr(hooked, "skipped", 0)
        found_inf = getattr(hooked, "found_inf", None)
        left_out = skipped > skipped_before or (found_inf is not None and bool(found_inf))
        if taken is not None and not left_out and not is_open(optimizer):
            taken()

    hooked.register_step_pre_hook(before_step)
    if taken is not None:
        hooked.register_step_post_hook(after_step)
