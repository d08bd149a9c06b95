"""What is asked of all gradients before the step: their norm, and whether they are finite."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

from stepwell.algebra import square
from stepwell.batching import Bucket
from stepwell.engines.choice import fused


def squared_norms(buckets: list[Bucket]) -> dict[int, float]:
    """‖g‖² of each parameter's gradient, in float64, by the parameter's id: one read of the gradients, no write."""
    norms: dict[int, float] = {}
    for same in _by_kind(buckets).values():
        parameters = [p for bucket in same for p in bucket.parameters]
        gradients = [g for bucket in same for g in bucket.batch.gradients]
        engine = fused() if all(bucket.engine.name in ("fused", "matrices") for bucket in same) else None
        if engine is not None and all(map(engine.serves, gradients)):
            squares = engine.totals("sum of squares", square, gradients).tolist()
        else:
            squares = [
                float(norm) ** 2 for norm in torch._foreach_norm([g.float() if _small(g) else g for g in gradients])
            ]
        for parameter, gradient, value in zip(parameters, gradients, squares, strict=True):
            # Squares of large but finite float32 numbers are infinite: those few are looked at again.
            again = not math.isfinite(value) and bool(torch.isfinite(gradient).all())
            norms[id(parameter)] = float(gradient.double().norm()) ** 2 if again else value
    return norms


def _by_kind(buckets: list[Bucket]) -> dict[tuple[torch.dtype, torch.device], list[Bucket]]:
    found: defaultdict[tuple[torch.dtype, torch.device], list[Bucket]] = defaultdict(list)
    for bucket in buckets:
        first = bucket.batch.gradients[0]
        found[first.dtype, first.device].append(bucket)
    return found


def _small(gradient: Tensor) -> bool:
    return gradient.dtype in (torch.float16, torch.bfloat16)


def clip_factor(norm: float, limit: float) -> float:
    """What gradients of this global norm are multiplied with so that it is at most `limit`, as
    `torch.nn.utils.clip_grad_norm_` does it: 1e-6 keeps the quotient finite."""
    return min(1.0, limit / (norm + 1e-6))
