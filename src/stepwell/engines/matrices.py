"""The matrices engine: rules that need whole matrices, matrix by matrix or stacked by shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stepwell.algebra.postponed import SymmetricSum
from stepwell.engines.direct import Direct
from stepwell.rules.rule import Rule

# A stack is copied together, and its products want several more: with many large matrices, a multiple of the model. So
# a stack has at most so many numbers, enough to fill an accelerator.
LARGEST_STACK = 1 << 24
# Up to so many numbers a matrix is too small to be split among a CPU's threads.
_SMALL = 128 * 256


class Matrices(Direct):
    """A number is a matrix (rows, cols), or a stack (n, rows, cols) of those of one shape where that is faster."""

    name = "matrices"
    takes_factor = True

    def parts(self, rule: Rule, weights: list[Tensor], members: list[int]) -> Iterator[list[int]]:
        by_shape: dict[torch.Size, list[int]] = {}
        for index in members:
            by_shape.setdefault(weights[index].shape, []).append(index)
        for same in by_shape.values():
            if rule.stackable and worth_stacking(weights[same[0]]):
                most = max(1, LARGEST_STACK // max(weights[same[0]].numel(), 1))
                yield from (same[start : start + most] for start in range(0, len(same), most))
            else:
                yield from ([index] for index in same)

    def number(self, tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
        # A stack is laid out row by row, and so is one matrix: a product of another layout is rounded otherwise.
        return tensors[0].to(dtype).contiguous() if len(tensors) == 1 else torch.stack(tensors).to(dtype)

    def sum(self, value: Tensor) -> float:
        return float(value.sum(dtype=torch.float64))

    def tensors(self, value: Tensor, count: int) -> list[Any]:
        return [value] if count == 1 else list(value.unbind())

    def store(self, targets: list[Tensor], value: Tensor) -> None:
        if isinstance(value, SymmetricSum):
            value.write_to(targets[0])
        elif len(targets) == 1:
            targets[0].copy_(value.reshape(targets[0].shape))
        else:
            torch._foreach_copy_(targets, list(value.reshape(len(targets), *targets[0].shape).unbind()))


def worth_stacking(matrix: Tensor) -> bool:
    """Whether matrices of this size are faster in one batched product than one by one.

    An accelerator is not filled by one matrix. On a CPU a batched product spreads its matrices over the threads, which
    pays only while a single one is too small to be split among them: measured with two threads, 24 matrices of 64×64
    take half the time, of 128×256 three quarters, and twelve of 192×192 as long as one by one.
    """
    return matrix.device.type != "cpu" or matrix.numel() <= _SMALL


def is_small(rule: Rule, weight: Tensor) -> bool:
    """Whether the rule works on this parameter in a stack on every device, small as it is."""
    return rule.acts_on == "matrices" and rule.stackable and weight.numel() <= _SMALL
