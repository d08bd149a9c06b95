"""Rules that reduce, on parts: every rank works on its own, and what is added up is added up over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.engines.batch import Batch
from stepwell.engines.foreach import Foreach
from stepwell.engines.ranks.numbers import Extent, Parts
from stepwell.layout.parts import Layout
from stepwell.layout.slots import slot_layout
from stepwell.rules.rule import Rule, Shape, namespace

# So many tensors go through the arithmetic together: the same on all ranks, however much each holds of them.
_TOGETHER = 16


class Reducing(Foreach):
    """A number is a list of parts.

    Args:
        exactly: compute in float64, as the reference engine does.
    """

    name = "foreach"

    def __init__(self, *, exactly: bool = False) -> None:
        self._exactly = exactly

    def parts(self, rule: Rule, weights: list[Tensor], members: list[int]) -> Iterator[list[int]]:
        return (members[start : start + _TOGETHER] for start in range(0, len(members), _TOGETHER))

    def _numbers(self, part: list[int], batch: Batch, scalars: Mapping[str, float]) -> tuple[Any, Any, Any]:
        """p, g and s for these parameters."""
        layouts = [batch.layouts[index] for index in part]
        shapes = [batch.rule.working_shape(layout.shape) for layout in layouts]

        def number(column: list[Tensor]) -> Parts:
            seen_as = zip(part, layouts, shapes, strict=True)
            tensors = [_seen(column[index], layout, shape) for index, layout, shape in seen_as]
            return Parts([tensor.to(dtype) for tensor in tensors], list(map(Extent.of, layouts, shapes)), dtype)

        everything = [batch.weights, batch.gradients, *batch.columns.values()]
        exactly = self._exactly or any(column[0].dtype == torch.float64 for column in everything)
        dtype = torch.float64 if exactly else torch.float32
        slots: dict[str, Any] = {}
        for slot in batch.rule.slot_list():
            if slot.shape is not None:
                cut = [slot_layout(batch.rule, slot, layout) for layout in layouts]
                tensors = [batch.columns[slot.name][index].to(dtype) for index in part]
                slots[slot.name] = Parts(tensors, [Extent.of(layout, layout.shape) for layout in cut], dtype)
            elif not slot.scalar:
                slots[slot.name] = number(batch.columns[slot.name])
        g = number(batch.gradients)
        if scalars["gradient_factor"] != 1.0:
            g = g * scalars["gradient_factor"]
        return number(batch.weights), g, namespace({**scalars, **slots})


def _seen(part: Tensor, layout: Layout, shape: Shape) -> Tensor:
    """The part in the shape in which the rule sees the whole: what it joins is not cut."""
    return part if shape == layout.shape else part.reshape(part.shape[0], *shape[1:])
