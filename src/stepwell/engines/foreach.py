"""The foreach engine: `torch._foreach_*` over lists of tensors, on any device that torch knows, with no compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stepwell.algebra.lists import TensorList
from stepwell.engines.direct import Direct, laid_out_for
from stepwell.rules.rule import Rule

# Lists are worked through in parts of about this many elements, so that what lies between is not the model's size.
_PART = 1 << 24


class Foreach(Direct):
    """A number is a list of tensors; in float32 for tensors stored in 16 bits."""

    name = "foreach"

    def parts(self, rule: Rule, weights: list[Tensor], members: list[int]) -> Iterator[list[int]]:
        part: list[int] = []
        elements = 0
        for index in members:
            part.append(index)
            elements += weights[index].numel()
            if elements >= _PART:
                yield part
                part, elements = [], 0
        if part:
            yield part

    def number(self, tensors: list[Tensor], dtype: torch.dtype) -> TensorList:
        return TensorList([tensor.to(dtype) for tensor in tensors], dtype)

    def sum(self, value: TensorList) -> float:
        return sum(float(tensor.sum(dtype=torch.float64)) for tensor in value.tensors)

    def tensors(self, value: TensorList | float, count: int) -> list[Any]:
        return value.tensors if isinstance(value, TensorList) else [value] * count

    def store(self, targets: list[Tensor], value: TensorList | float) -> None:
        if isinstance(value, TensorList):
            torch._foreach_copy_(targets, list(map(laid_out_for, targets, value.tensors)))
        else:
            for target in targets:
                target.fill_(value)
