"""The foreach engine: `torch._foreach_*` over lists of tensors, on any device that torch knows, with no compiler."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stepwell.algebra.lists import TensorList
from stepwell.engines.batch import Batch, computed_in, evaluate

# Lists are worked through in parts of about this many elements, so that what lies between is not the model's size.
_PART = 1 << 24


class Foreach:
    """Works every rule out on lists of tensors; in float32 for tensors stored in 16 bits."""

    name = "foreach"

    def apply(self, batch: Batch, function: str = "update") -> None:
        for group, scalars, members in batch.classes():
            for part in _parts(batch.weights, members):
                weights = [batch.weights[index] for index in part]
                columns = {slot: [column[index] for index in part] for slot, column in batch.columns.items()}
                gradients = [batch.gradients[index] for index in part]
                dtype = computed_in(weights, gradients, *columns.values())
                p, g = _computed(weights, dtype), _computed(gradients, dtype)
                slots = {slot: _computed(column, dtype) for slot, column in columns.items()}
                values, new_slots, new_scalars = evaluate(batch, function, p, g, slots, group, scalars)
                for slot, new in new_slots.items():
                    _store(columns[slot], new)
                _store(weights, values)
                batch.keep(part, new_scalars)


def _parts(weights: list[Tensor], members: list[int]) -> Iterator[list[int]]:
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


def _computed(tensors: list[Tensor], dtype: torch.dtype) -> TensorList:
    return TensorList([tensor.to(dtype) for tensor in tensors])


def _store(targets: list[Tensor], values: TensorList | float) -> None:
    if isinstance(values, TensorList):
        torch._foreach_copy_(targets, values.tensors)
    else:
        for target in targets:
            target.fill_(values)
