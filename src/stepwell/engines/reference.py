"""The reference engine: one tensor at a time, in float64. It is the specification of all other engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stepwell.engines.direct import Direct, laid_out_for
from stepwell.rules.rule import Rule


class Reference(Direct):
    """A number is a tensor, in float64 whatever it is stored in; it is rounded once, when it is stored."""

    name = "reference"

    def parts(self, rule: Rule, weights: list[Tensor], members: list[int]) -> Iterable[list[int]]:
        return ([index] for index in members)

    def number(self, tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
        return tensors[0].to(torch.float64)

    def sum(self, value: Tensor) -> float:
        return float(value.sum(dtype=torch.float64))

    def tensors(self, value: Tensor | float, count: int) -> list[Any]:
        return [value]

    def store(self, targets: list[Tensor], value: Tensor | float) -> None:
        if isinstance(value, Tensor):
            targets[0].copy_(laid_out_for(targets[0], value))
        else:
            targets[0].fill_(value)
