"""Twenty steps that are the same for our optimizers and for those of other libraries.

The tests import the other library when they run: without it they fail, and can still be collected and deselected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conformance.training import parameter

STEPS = 20
SHAPES = ((), (5,), (4, 3), (2, 3, 4), (300,))


def weights(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Parameters of all shapes, the same numbers at each call."""
    return [parameter(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]


def gradients(step: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A gradient for each parameter: other numbers at each step, the same at each call."""
    return [parameter(shape, dtype, 1000 * step + index).detach() for index, shape in enumerate(SHAPES)]


def step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], number: int) -> None:
    """Step `number`, with gradients of its own: some libraries write into them."""
    for p, gradient in zip(parameters, gradients(number, parameters[0].dtype), strict=True):
        p.grad = gradient
    optimizer.step()
