"""The matrices engine: rules that need whole matrices, matrix by matrix or stacked by shape."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.engines.batch import Batch, computed_in, evaluate


class Matrices:
    """Works matrix rules out in float32 (float64 for float64), same shapes stacked where that is faster."""

    name = "matrices"

    def apply(self, batch: Batch, function: str = "update") -> None:
        for group, scalars, members in batch.classes():
            for part in _stacks(batch.weights, members):
                weights = [batch.weights[index] for index in part]
                columns = {slot: [column[index] for index in part] for slot, column in batch.columns.items()}
                gradients = [batch.gradients[index] for index in part]
                dtype = computed_in(weights, gradients, *columns.values())
                p, g = _stacked(weights, dtype), _stacked(gradients, dtype)
                slots = {slot: _stacked(column, dtype) for slot, column in columns.items()}
                values, new_slots, new_scalars = evaluate(batch, function, p, g, slots, group, scalars)
                for slot, new in new_slots.items():
                    _store(columns[slot], new)
                _store(weights, values)
                batch.keep(part, new_scalars)


def _stacks(weights: list[Tensor], members: list[int]) -> list[list[int]]:
    """The members by shape; singly where a product of that size keeps the device busy by itself."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index in members:
        by_shape.setdefault(weights[index].shape, []).append(index)
    stacks: list[list[int]] = []
    for same in by_shape.values():
        if worth_stacking(weights[same[0]]):
            stacks.append(same)
        else:
            stacks.extend([index] for index in same)
    return stacks


def worth_stacking(matrix: Tensor) -> bool:
    """Whether matrices of this size are faster in one batched product than one by one.

    An accelerator is not filled by one matrix. On a CPU a batched product spreads its matrices over the threads, which
    pays only while a single one is too small to be split among them.
    """
    return matrix.device.type != "cpu" or matrix.numel() <= 64 * 64


def _stacked(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    return tensors[0].to(dtype) if len(tensors) == 1 else torch.stack(tensors).to(dtype)


def _store(targets: list[Tensor], values: Tensor) -> None:
    if len(targets) == 1:
        targets[0].copy_(values)
    else:
        torch._foreach_copy_(targets, list(values.unbind()))
