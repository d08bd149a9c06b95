"""Rules of whole matrices, on parts: each matrix is put together on one rank, worked on there, and given back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stepwell.engines.batch import Batch, Engine
from stepwell.engines.observing import squares_of
from stepwell.layout.exchange import Exchange, Sent
from stepwell.layout.parts import Layout
from stepwell.layout.slots import slot_layout


class Sharing:
    """Matrices shared out over the ranks, so that each has about as much to compute.

    Where several dimensions of the mesh cut a matrix, every rank puts it together and computes the same.

    Args:
        inner: the engine that works on whole matrices.
    """

    judges = False

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self.name = inner.name

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over the parts that this rank holds. Nothing is changed."""
        return self._inner.measure(batch)

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place."""
        layout = batch.layouts[0]  # all of a batch are cut alike
        observed = batch.observed and function == "update"
        before = [weight.clone() for weight in batch.weights] if observed else []
        if not layout.cuts:
            self._inner.apply(batch, function)
        elif len(layout.cuts) == 1 and layout.placements[layout.cuts[0][0]].is_shard():
            self._shared(batch, function)
        else:
            self._repeated(batch, function)
        if observed:
            moved = torch._foreach_sub(batch.weights, before)
            gradients = torch._foreach_mul(batch.gradients, batch.gradient_factor)
            batch.prepared["squares"] = squares_of([moved, before, gradients])

    def squares(self, batch: Batch) -> Tensor | None:
        """What its last update has observed: see `Engine.squares`."""
        return batch.prepared.get("squares")

    def _shared(self, batch: Batch, function: str) -> None:
        group = batch.layouts[0].groups[0]
        owners = shared_out([batch.rule.working_shape(layout.shape) for layout in batch.layouts], group.size())
        slots = {slot.name: slot for slot in batch.rule.slot_list() if not slot.scalar}
        stored = [(batch.weights, batch.layouts)] + [
            (batch.columns[name], [slot_layout(batch.rule, slot, layout) for layout in batch.layouts])
            for name, slot in slots.items()
        ]
        read = [*stored, (batch.gradients, batch.layouts)] if function == "update" else stored
        wholes = Exchange(group, _all_sent(read, owners)).gather([t for column, _ in read for t in column])
        count = len(owners)
        mine = [index for index, owner in enumerate(owners) if owner == group.rank()]
        if mine:
            columns = [[wholes[place * count + index] for index in mine] for place in range(len(read))]
            whole = batch.of(
                mine,
                weights=columns[0],
                columns=dict(zip(slots, columns[1 : len(stored)], strict=True)),
                gradients=columns[-1] if function == "update" else columns[0],
            )
            self._inner.apply(whole, function)
        Exchange(group, _all_sent(stored, owners)).scatter(wholes, [t for column, _ in stored for t in column])
        self._agree(batch, mine)

    def _agree(self, batch: Batch, mine: Sequence[int]) -> None:
        """Tell the other ranks the scalar slots, which only the owner of a parameter has worked out."""
        if batch.scalar_slots:
            layout = batch.layouts[0]
            shape = (len(batch.states), len(batch.scalar_slots))
            numbers = torch.zeros(shape, dtype=torch.float64, device=layout.device)
            for index in mine:
                row = [float(batch.states[index][slot]) for slot in batch.scalar_slots]
                numbers[index] = torch.tensor(row, dtype=torch.float64)
            torch.distributed.all_reduce(numbers, group=layout.groups[0])
            for index, row in enumerate(numbers.tolist()):
                batch.keep([index], dict(zip(batch.scalar_slots, row, strict=True)))

    def _repeated(self, batch: Batch, function: str) -> None:
        for index, layout in enumerate(batch.layouts):
            cut = {
                slot.name: slot_layout(batch.rule, slot, layout) for slot in batch.rule.slot_list() if not slot.scalar
            }
            weight = layout.whole(batch.weights[index])
            columns = {name: at.whole(batch.columns[name][index]) for name, at in cut.items()}
            gradient = layout.whole(batch.gradients[index]) if function == "update" else weight
            whole = batch.of(
                [index],
                weights=[weight],
                columns={name: [column] for name, column in columns.items()},
                gradients=[gradient],
            )
            self._inner.apply(whole, function)
            batch.weights[index].copy_(layout.part(weight))
            for name, at in cut.items():
                batch.columns[name][index].copy_(at.part(columns[name]))


def _all_sent(columns: Sequence[tuple[Sequence[Tensor], Sequence[Layout]]], owners: Sequence[int]) -> list[Sent]:
    return [
        Sent(layout, owner, tensor.dtype)
        for tensors, layouts in columns
        for tensor, layout, owner in zip(tensors, layouts, owners, strict=True)
    ]


def shared_out(shapes: Sequence[tuple[int, ...]], ranks: int) -> list[int]:
    """For matrices of these shapes, the rank of each: the costliest first, always to the rank with the least to do.

    The cost of a matrix (…, rows, cols) is that of its products: rows · cols · min(rows, cols) each.
    """
    costs = [math.prod(shape) * min(shape[-2:]) if len(shape) > 1 else math.prod(shape) for shape in shapes]
    load = [0] * ranks
    owners = [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda index: -costs[index]):
        owners[index] = min(range(ranks), key=lambda rank: load[rank])
        load[owners[index]] += costs[index]
    return owners
