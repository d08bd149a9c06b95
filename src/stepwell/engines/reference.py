"""The reference engine: one tensor at a time, in float64. It is the specification of all other engines."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.engines.batch import Batch, evaluate


class Reference:
    """Works every rule out in float64, whatever the tensors are stored in, and rounds once, when it stores."""

    name = "reference"

    def apply(self, batch: Batch, function: str = "update") -> None:
        for group, scalars, members in batch.classes():
            for index in members:
                p, g = batch.weights[index].to(torch.float64), batch.gradients[index].to(torch.float64)
                slots = {slot: column[index].to(torch.float64) for slot, column in batch.columns.items()}
                weight, new_slots, new_scalars = evaluate(batch, function, p, g, slots, group, scalars)
                for slot, value in new_slots.items():
                    _store(batch.columns[slot][index], value)
                _store(batch.weights[index], weight)
                batch.keep([index], new_scalars)


def _store(target: Tensor, value: Tensor | float) -> None:
    if isinstance(value, Tensor):
        target.copy_(value)
    else:
        target.fill_(value)
