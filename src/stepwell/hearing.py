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
    """
    hooked: Any = optimizer
    if not hasattr(hooked, "_optimizer_step_pre_hooks"):
        hooked = getattr(optimizer, "optimizer", optimizer)
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
