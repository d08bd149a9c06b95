"""Gradients at the sharpest point nearby, for rules inside `sam`: the weights go there and come back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from stepwell.optimizer.bucket import check_dense
from stepwell.optimizer.gradients import gradient_norms
from stepwell.rules.registry import rule_class
from stepwell.rules.wrappers import SAM


def sharp_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups whose rule is inside `sam`."""
    return [group for group in groups if issubclass(rule_class(group["rule"]), SAM)]


def sharp_gradients(
    groups: Sequence[Mapping[str, Any]],
    closure: Callable[[], Any] | None,
    name_of: Callable[[Tensor], str],
    *,
    with_kernel: bool,
) -> None:
    """Leave in these groups' parameters the gradients of the closure at θ + ρ·g/‖g‖, and in all others their own.

    The closure has been called once at θ. Without one, gradients that are all zeros stay as they are, for the sharpest
    point is θ itself: torch's `get_state_dict` takes such a step to have state made.

    Raises TypeError where there is no closure otherwise, and ValueError for a sparse gradient.
    """
    given = [(p, group) for group in groups for p in group["params"] if p.grad is not None]
    check_dense([p for p, _ in given], [p.grad for p, _ in given if p.grad is not None], name_of)
    length = math.hypot(*gradient_norms([p for p, _ in given], with_kernel=with_kernel).values())
    if closure is not None:
        with _ascended(given, length), torch.enable_grad():
            closure()
    elif length or not given:
        raise TypeError(
            f"{groups[0]['rule']} takes its gradient at two points: call optimizer.step(closure), where closure() "
            "clears the gradients, works out the loss and its gradients, and returns the loss"
        )


@contextlib.contextmanager
def _ascended(given: Sequence[tuple[Tensor, Mapping[str, Any]]], length: float) -> Iterator[None]:
    kept = [(p, p.detach().clone()) for p, _ in given]
    if 0 < length < math.inf:
        for p, group in given:
            # Where the objective is to be large, the worst point nearby is down its gradient.
            rho = -float(group["rho"]) if group["maximize"] else float(group["rho"])
            p.add_(cast(Tensor, p.grad), alpha=rho / length)
    try:
        yield
    finally:
        for p, weights in kept:
            p.detach().copy_(weights)
