"""What is asked of all gradients before the step: their norm, and whether they are finite."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.algebra import square, where
from stepwell.batching import real
from stepwell.engines.choice import fused
from stepwell.layout import Layout, held, layout_of, sum_over_ranks


def gradient_norms(parameters: Iterable[Tensor], *, with_kernel: bool) -> dict[int, float]:
    """‖g‖ of each parameter's gradient, in float64, by the parameter's id: one read of the gradients, no write.

    `with_kernel` lets the fused engine do it where it can; otherwise `torch._foreach_norm` does. Where a parameter lies
    on many ranks, each reads its part, and all get the norm of the whole.
    """
    cut: list[tuple[Tensor, Layout]] = []
    found: dict[int, float] = {}
    alike: defaultdict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            layout = layout_of(parameter)
            if layout is not None:
                cut.append((parameter, layout))
            gradient = real(held(parameter.grad, layout))
            engine = fused(gradient.device.type) if with_kernel else None
            served = engine if engine is not None and engine.serves(gradient) else None
            alike[gradient.dtype, gradient.device, served].append((parameter, gradient))
    for (_, _, engine), pairs in alike.items():
        gradients = [gradient for _, gradient in pairs]
        if engine is not None:
            norms = [math.sqrt(total) for total in engine.totals("sum of squares", square, gradients).tolist()]
        else:
            norms = [float(norm) for norm in torch._foreach_norm([_wide(gradient) for gradient in gradients])]
        for (parameter, gradient), norm in zip(pairs, norms, strict=True):
            # Squares of large but finite numbers are infinite: those few are looked at again.
            again = not math.isfinite(norm) and bool(torch.isfinite(gradient).all())
            found[id(parameter)] = _scaled_norm(gradient.double()) if again else norm
    squares = [torch.tensor(found[id(p)] ** 2, dtype=torch.float64, device=layout.device) for p, layout in cut]
    sums = sum_over_ranks(squares, [layout.groups for _, layout in cut])
    found.update({id(p): math.sqrt(total) for (p, _), total in zip(cut, map(float, sums), strict=True)})
    return found


def _scaled_norm(gradient: Tensor) -> float:
    largest = gradient.abs().max()
    return float(largest * (gradient / largest).norm())


def _wide(gradient: Tensor) -> Tensor:
    return gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient


def not_finite(bad: Sequence[Tensor], name_of: Callable[[Tensor], str]) -> FloatingPointError:
    """The error that names the first of the parameters whose gradients hold NaN or infinity."""
    more = f" (and of {len(bad) - 1} more)" if len(bad) > 1 else ""
    return FloatingPointError(f"the gradient of {name_of(bad[0])}{more} holds NaN or infinity; no weight has changed")


def clip_factor(norm: Any, limit: float) -> Any:
    """What gradients of this global norm are multiplied with so that it is at most `limit`, as
    `torch.nn.utils.clip_grad_norm_` does it: 1e-6 keeps the quotient finite, and a norm of NaN makes all of them NaN.
    """
    factor = limit / (norm + 1e-6)
    return where(factor > 1.0, 1.0, factor)
