"""What is asked of all gradients before the step: their norm, and whether they are finite."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stepwell.algebra import square, where
from stepwell.engines.choice import fused
from stepwell.layout import held, layout_of, sum_over_ranks
from stepwell.optimizer.bucket import check_dense, real

_dtype_and_device = attrgetter("dtype", "device")


def gradient_norms(parameters: Iterable[Tensor], *, with_kernel: bool) -> dict[int, float]:
    """‖g‖ of each parameter's gradient, in float64, by the parameter's id: one read of the gradients, no write.

    `with_kernel` lets the fused engine do it where it can; otherwise `torch._foreach_norm` does. Where a parameter lies
    on many ranks, each reads its part, and all get the norm of the whole.
    """
    given = [(p, gradient, layout_of(p)) for p in parameters if (gradient := p.grad) is not None]
    gradients = [real(held(gradient, layout)) for _, gradient, layout in given]
    alike: defaultdict[Any, list[int]] = defaultdict(list)
    for index, dtype_and_device in enumerate(map(_dtype_and_device, gradients)):
        alike[dtype_and_device].append(index)
    norms = np.zeros(len(given))
    for (_, device), places in alike.items():
        engine = fused(device.type) if with_kernel else None
        served = [] if engine is None else [index for index in places if engine.serves(gradients[index])]
        if engine is not None and served:
            norms[served] = np.sqrt(engine.totals("sum of squares", square, [gradients[index] for index in served]))
        if len(served) < len(places):
            others = sorted({*places} - {*served})
            norms[others] = list(map(float, torch._foreach_norm([_wide(gradients[index]) for index in others])))
    for index in np.flatnonzero(~np.isfinite(norms)).tolist():
        # Squares of large but finite numbers are infinite: those few are looked at again.
        if torch.isfinite(gradients[index]).all():
            norms[index] = _scaled_norm(gradients[index].double())
    found = {id(p): norm for (p, _, _), norm in zip(given, norms.tolist(), strict=True)}
    cut = [(p, layout) for p, _, layout in given if layout is not None]
    squares = [
        torch.tensor(found[id(p)] * found[id(p)], dtype=torch.float64, device=layout.device) for p, layout in cut
    ]
    sums = sum_over_ranks(squares, [layout.groups for _, layout in cut])
    found.update({id(p): math.sqrt(total) for (p, _), total in zip(cut, map(float, sums), strict=True)})
    return found


def _scaled_norm(gradient: Tensor) -> float:
    largest = gradient.abs().max()
    return float(largest * (gradient / largest).norm())


def _wide(gradient: Tensor) -> Tensor:
    return gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient


class Judged(NamedTuple):
    """What gradients are multiplied with, None for a step that is left out; and their norm, where it was asked for."""

    factor: float | None
    norm: float | None = None


def judged_by_host(
    parameters: Iterable[Tensor],
    *,
    scale: Tensor | None,
    limit: float | None,
    on_nonfinite: str,
    name_of: Callable[[Tensor], str],
    with_kernel: bool,
) -> Judged:
    """Unscaling and clipping, and what is done about NaN and infinity, where the host may wait for the gradients.

    Args:
        parameters: all of them, whether they have a gradient or not.
        scale: what the loss was multiplied with, or None.
        limit: the greatest global norm, or None.
        on_nonfinite: as the optimizer takes it.
        name_of: what errors call a parameter.
        with_kernel: as `gradient_norms` takes it.

    Raises FloatingPointError where "raise" is asked for, and ValueError for a sparse gradient.
    """
    factor = 1.0 if scale is None else 1.0 / float(scale)
    if limit is None and on_nonfinite == "ignore":
        return Judged(factor)
    given = [p for p in parameters if p.grad is not None]
    check_dense(given, [p.grad for p in given if p.grad is not None], name_of)
    norms = gradient_norms(given, with_kernel=with_kernel)
    norm = math.hypot(*norms.values()) * factor
    if on_nonfinite != "ignore":
        bad = [] if math.isfinite(norm) else [p for p in given if not math.isfinite(norms[id(p)])]
        if bad and on_nonfinite == "skip":
            return Judged(None, norm)
        if bad:
            raise not_finite(bad, name_of)
    return Judged(factor if limit is None else factor * clip_factor(norm, limit), norm)


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
