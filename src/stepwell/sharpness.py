"""Gradients at the sharpest point nearby, for rules inside `sam`: the weights go there and come back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.bucket import check_dense
from stepwell.gradients import gradient_norms
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

    The closure has been called once at θ. Raises TypeError where there is none, and ValueError for a sparse gradient.
    """
    if closure is None:
        raise TypeError(
            f"{groups[0]['rule']} takes its gradient at two points: call optimizer.step(closure), where closure() "
            "clears the gradients, works out the loss and its gradients, and returns the loss"
        )
    with _ascended(groups, name_of, with_kernel), torch.enable_grad():
        closure()


@contextlib.contextmanager
def _ascended(
    groups: Sequence[Mapping[str, Any]], name_of: Callable[[Tensor], str], with_kernel: bool
) -> Iterator[None]:
    # Where the objective is to be large, the worst point nearby is down its gradient.
    parameters = [
        (p, -float(group["rho"]) if group["maximize"] else float(group["rho"]))
        for group in groups
        for p in group["params"]
        if p.grad is not None
    ]
    check_dense([p for p, _ in parameters], [p.grad for p, _ in parameters if p.grad is not None], name_of)
    length = math.hypot(*gradient_norms([p for p, _ in parameters], with_kernel=with_kernel).values())
    kept = [(p, p.detach().clone()) for p, _ in parameters]
    if 0 < length < math.inf:
        for p, rho in parameters:
            p.add_(p.grad, alpha=rho / length)
    try:
        yield
    finally:
        for p, weights in kept:
            p.detach().copy_(weights)
