"""Hearing of the steps that an optimizer takes, through torch's hooks: the optimizer itself stays as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch.optim import Optimizer

from stepwell.engines.devices import capturing
from stepwell.optimizer.snapshot import is_open


def hear(optimizer: Optimizer, *, before: Callable[[], None], taken: Callable[[], None] | None = None) -> None:
    """Be told of an optimizer's steps.

    Args:
        optimizer: any, also one inside a wrapper that has no hooks of its own, as Accelerate's has none.
        before: called before each step.
        taken: called after each step that was taken: not after one that a GradScaler or `on_nonfinite="skip"` left
            out, nor after one that a `Snapshot` will take back, nor after one that goes into a CUDA graph, nor after
            the one that torch's `get_state_dict` takes to have state made.

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
        if _is_within_a_step(hooked):
            return  # the step of a base class, which the class's own step has called
        if _is_captured(hooked):
            return  # it goes into a graph, and is taken at each replay
        skipped_before, skipped = skipped, getattr(hooked, "skipped", 0)
        found_inf = getattr(hooked, "found_inf", None)
        left_out = skipped > skipped_before or (found_inf is not None and bool(found_inf))
        if taken is not None and not left_out and not is_open(optimizer) and not _only_makes_state():
            taken()

    hooked.register_step_pre_hook(before_step)
    if taken is not None:
        hooked.register_step_post_hook(after_step)


def _is_captured(optimizer: Optimizer) -> bool:
    """Whether its step goes into a CUDA graph."""
    if torch.compiler.is_compiling():  # which no capture is, and whose tracer cannot ask
        return False
    first = next((p for group in optimizer.param_groups for p in group["params"]), None)
    return first is not None and capturing(first.device)


def _only_makes_state() -> bool:
    """Whether torch takes the step itself, at a rate of 0 and with gradients of zeros, to have something to save."""
    if torch.compiler.is_compiling():  # then the stack is not to be had
        return False
    making = getattr(sys.modules.get("torch.distributed.checkpoint.state_dict"), "_init_optim_state", None)
    return making is not None and any(frame.f_code is making.__code__ for frame in _callers())


def _callers() -> Iterator[FrameType]:
    caller: FrameType | None = sys._getframe(1)
    while caller is not None:
        yield caller
        caller = caller.f_back


# What torch makes of the `step` of each class that an optimizer was made of: a class's and its base's run the hooks.
_HOOKING = Optimizer.profile_hook_step(Optimizer.step).__code__


def _is_within_a_step(optimizer: Optimizer) -> bool:
    """Whether the step whose hooks are running was called by another step of the same optimizer."""
    if torch.compiler.is_compiling():  # then the stack is not to be had
        return False
    if sum(hasattr(vars(kind).get("step"), "hooked") for kind in type(optimizer).__mro__) < 2:
        return False
    running = [one for one in _callers() if one.f_code is _HOOKING and one.f_locals.get("self") is optimizer]
    return len(running) > 1
