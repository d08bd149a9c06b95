"""A torch tensor as a number: the reference engine's, and the plots'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def as_tensor_like(x: Tensor | float, *others: Tensor | float) -> Tensor:
    """x as a tensor of the device and dtype of the first tensor among the others."""
    if isinstance(x, Tensor):
        return x
    like = next(other for other in others if isinstance(other, Tensor))
    dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
    return torch.tensor(x, dtype=dtype, device=like.device)


def _floating(x: Tensor) -> Tensor:
    """Functions of the algebra give fractions also for whole numbers (a schedule asked for a tensor of steps)."""
    return x if x.dtype.is_floating_point else x.to(torch.get_default_dtype())


class Tensors:
    """The algebra on one `torch.Tensor`, in that tensor's dtype."""

    def sqrt(self, x: Tensor) -> Tensor:
        return torch.sqrt(x)

    def absolute(self, x: Tensor) -> Tensor:
        return torch.abs(x)

    def sign(self, x: Tensor) -> Tensor:
        return torch.sign(x)

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def cos(self, x: Tensor) -> Tensor:
        return torch.cos(x)

    def floor(self, x: Tensor) -> Tensor:
        return torch.floor(x)

    def minimum(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        return torch.minimum(as_tensor_like(x, y), as_tensor_like(y, x))

    def maximum(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        return torch.maximum(as_tensor_like(x, y), as_tensor_like(y, x))

    def where(self, condition: Tensor | bool, x: Tensor | float, y: Tensor | float) -> Tensor | float:
        if isinstance(condition, bool):
            return x if condition else y
        if not isinstance(x, Tensor) and not isinstance(y, Tensor) and condition.device.type != "mps":
            # Of two plain numbers torch makes float32, with which a float64 rule would go on; MPS has no float64.
            x = torch.tensor(x, dtype=torch.float64, device=condition.device)
        return torch.where(condition, x, y)

    def lerp(self, x: Tensor, y: Tensor, weight: Tensor | float) -> Tensor:
        return x + weight * (y - x)

    def total(self, x: Tensor) -> Tensor:
        return x.sum()

    def mean(self, x: Tensor) -> Tensor:
        return _floating(x).mean()

    def row_mean(self, x: Tensor) -> Tensor:
        return _floating(x).mean(-1, keepdim=True)

    def column_mean(self, x: Tensor) -> Tensor:
        return _floating(x).mean(-2, keepdim=True)


_TENSORS: Any = Tensors()


def kind_for(root: str) -> Any:
    """The kind for tensors (`root` is the name of the library that was asked for)."""
    assert root == "torch"
    return _TENSORS
