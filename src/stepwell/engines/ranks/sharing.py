"""Rules of whole matrices, on parts: each matrix is put together on one rank, worked on there, and given back."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stepwell.codecs import WEIGHTS
from stepwell.engines.batch import Batch, Engine, not_captured
from stepwell.engines.observing import add_up_units, squares_of, units_added_up
from stepwell.engines.ranks.exchange import Coming, Exchange, Sent
from stepwell.layout.parts import Layout
from stepwell.layout.slots import slot_layout
from stepwell.rules.matrix_rule import steps_in_three
from stepwell.rules.rule import Rule

GRADIENT = "g"
MATRIX = "x"  # what a rule makes of all of them, where it needs no more than that whole
# So many numbers of each rank's matrices are put together at a time: enough to fill an accelerator, and next to the
# model little. Two such rounds are in memory, one on its way while the other is worked on.
TOGETHER = 1 << 24


class Sharing:
    """Matrices shared out over the ranks, so that each has about as much to compute. While a rank works on some, the
    next are on their way to it.

    Where several dimensions of the mesh cut a matrix, every rank puts it together and computes the same.

    Args:
        inner: the engine that works on whole matrices.
    """

    counts_on = False
    takes_factor = False

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self.name = inner.name

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over the parts that this rank holds. Nothing is changed."""
        return self._inner.measure(batch)

    def leaves_out(self, batch: Batch) -> bool:
        """Whether it can leave a step of the batch out by a verdict: all ranks ask the host."""
        del batch
        return False

    def check_captured(self, batch: Batch) -> None:
        """See `Engine.check_captured`."""
        raise not_captured(batch.rule, "shared out over ranks, it takes the step and the rates from the host")

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place."""
        observed = batch.observed and function == "update"
        before = [weight.clone() for weight in batch.weights] if observed else []
        here = [index for index, layout in enumerate(batch.layouts) if whole_here(batch.rule, layout)]
        if here:
            self._inner.apply(_of(batch, here), function)
        others = sorted(set(range(len(batch.layouts))) - set(here))
        layout = batch.layouts[0]  # all of a batch are cut alike
        if others and len(layout.cuts) == 1 and layout.placements[layout.cuts[0][0]].is_shard():
            self._shared(batch, others, function)
        elif others:
            self._repeated(batch, others, function)
        if observed:
            moved = torch._foreach_sub(batch.weights, before)
            gradients = torch._foreach_mul(batch.gradients, batch.gradient_factor)
            batch.prepared["squares"] = squares_of([moved, before, gradients])
            add_up_units(batch, range(len(batch.weights)))

    def squares(self, batch: Batch) -> Tensor | None:
        """What its last update has observed: see `Engine.squares`."""
        return batch.prepared.get("squares")

    def unit_squares(self, batch: Batch) -> list[Tensor | None]:
        """What its last update has observed of units: see `Engine.unit_squares`."""
        return units_added_up(batch)

    def _shared(self, batch: Batch, members: list[int], function: str) -> None:
        layouts = [batch.layouts[index] for index in members]
        group = layouts[0].groups[0]
        shapes = [batch.rule.working_shape(layout.shape) for layout in layouts]
        owners = shared_out(shapes, group.size())
        rounds = [[members[place] for place in places] for places in in_rounds(shapes, owners)]
        owner_of = dict(zip(members, owners, strict=True))
        kind = _TurnOfOne if function == "update" and steps_in_three(type(batch.rule)) else _Turn
        turns = (kind(self._inner, batch, each, [owner_of[index] for index in each], function) for each in rounds)
        before: _Turn | None = None
        for turn in _one_ahead(turns):  # the next is on its way while this one is worked on
            turn.work()
            if before is not None:
                before.finish()
            turn.give_back()
            before = turn
        if before is not None:
            before.finish()
        self._agree(batch, owner_of)

    def _agree(self, batch: Batch, owner_of: Mapping[int, int]) -> None:
        """Tell the other ranks the scalar slots of these members, which only their owners have worked out."""
        if batch.scalar_slots:
            layout = batch.layouts[0]
            group = layout.groups[0]
            shape = (len(owner_of), len(batch.scalar_slots))
            numbers = torch.zeros(shape, dtype=torch.float64, device=layout.device)
            for place, (index, owner) in enumerate(owner_of.items()):
                if owner == group.rank():
                    row = [float(batch.states[index][slot]) for slot in batch.scalar_slots]
                    numbers[place] = numbers.new_tensor(row)
            torch.distributed.all_reduce(numbers, group=group)
            for index, row in zip(owner_of, numbers.tolist(), strict=True):
                batch.keep([index], dict(zip(batch.scalar_slots, row, strict=True)))

    def _repeated(self, batch: Batch, members: Sequence[int], function: str) -> None:
        for index in members:
            layout = batch.layouts[index]
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


class _Turn:
    """Matrices that are put together, worked on and given back at the same time. Made, they are under way."""

    def __init__(self, inner: Engine, batch: Batch, members: list[int], owners: list[int], function: str) -> None:
        self._inner = inner
        self._batch = batch
        self._function = function
        self._members = members
        self._held, self._written = self._numbers()
        layouts = [batch.layouts[index] for index in members]
        self._group = layouts[0].groups[0]
        self._mine = [place for place, owner in enumerate(owners) if owner == self._group.rank()]
        sent = {
            name: [
                Sent(layout_of_number(batch.rule, name, layout), owner, tensor.dtype)
                for layout, owner, tensor in zip(layouts, owners, held, strict=True)
            ]
            for name, held in self._held.items()
        }
        self._back = Exchange(self._group, [each for name in self._written for each in sent[name]])
        everything = Exchange(self._group, [each for each_name in sent.values() for each in each_name])
        self._coming = everything.gather([tensor for column in self._held.values() for tensor in column])
        self._leaving: Coming[None] | None = None
        self._wholes: dict[str, dict[int, Tensor]] = {}

    def _numbers(self) -> tuple[dict[str, list[Tensor]], tuple[str, ...]]:
        """What this rank holds of the numbers that travel, by name, and which of them come back."""
        batch = self._batch
        columns = {WEIGHTS: batch.weights, GRADIENT: batch.gradients, **batch.columns}
        numbers = exchanged(batch.rule, self._function)
        return {name: [columns[name][index] for index in self._members] for name in numbers.read}, numbers.written

    def work(self) -> None:
        """Work out what this rank owns, as soon as it is there."""
        arrived = self._coming.wait()
        count = len(self._members)
        self._wholes = {
            name: {place: arrived[number * count + place] for place in self._mine}
            for number, name in enumerate(self._held)
        }
        if self._mine:
            mine = [self._members[place] for place in self._mine]
            self._work_on(mine, {name: list(column.values()) for name, column in self._wholes.items()})

    def _work_on(self, mine: list[int], columns: dict[str, list[Tensor]]) -> None:
        weights = columns.pop(WEIGHTS)
        gradients = columns.pop(GRADIENT, weights)
        batch = self._batch.of(mine, weights=weights, gradients=gradients, columns=columns)
        self._inner.apply(batch, self._function)

    def give_back(self) -> None:
        """Send every rank its part of what has been worked out."""
        count = len(self._members)
        wholes = {
            number * count + place: whole
            for number, name in enumerate(self._written)
            for place, whole in self._wholes[name].items()
        }
        self._leaving = self._back.scatter(wholes, [tensor for name in self._written for tensor in self._held[name]])

    def finish(self) -> None:
        """Wait for the parts that this rank gets back."""
        if self._leaving is not None:
            self._leaving.wait()


class _TurnOfOne(_Turn):
    """The same of a rule that needs one matrix whole: each rank makes its part of that, and goes on with what it gets
    back. Weights, gradients and slots stay where they are."""

    def _numbers(self) -> tuple[dict[str, list[Tensor]], tuple[str, ...]]:
        batch = self._batch
        # A copy of the weights at first, in the dtype that the rule computes in: `mix` may look at them.
        made = [
            batch.weights[index].to(dtype_of_number(batch.rule, MATRIX, batch.weights[index].dtype), copy=True)
            for index in self._members
        ]
        gradients = [batch.gradients[index] for index in self._members]
        columns = {name: [column[index] for index in self._members] for name, column in batch.columns.items()}
        self._inner.apply(batch.of(self._members, weights=made, gradients=gradients, columns=columns), "mix")
        return {MATRIX: made}, (MATRIX,)

    def _work_on(self, mine: list[int], columns: dict[str, list[Tensor]]) -> None:
        wholes = columns[MATRIX]
        self._inner.apply(self._batch.without_slots(mine, wholes, wholes), "turn")

    def finish(self) -> None:
        super().finish()
        weights = [self._batch.weights[index] for index in self._members]
        self._inner.apply(self._batch.without_slots(self._members, weights, self._held[MATRIX]), "move")


def _one_ahead(turns: Iterator[_Turn]) -> Iterator[_Turn]:
    """The same, each when the next has been made."""
    ready = next(turns)
    for following in turns:
        yield ready
        ready = following
    yield ready


class Exchanged(NamedTuple):
    """The numbers that go to the rank that works on a matrix, and those that come back, by name."""

    read: tuple[str, ...]
    written: tuple[str, ...]


def exchanged(rule: Rule, function: str = "update") -> Exchanged:
    """What ranks send each other of a matrix so that one of them can work out `rule.function`."""
    if function == "update" and steps_in_three(type(rule)):
        return Exchanged((MATRIX,), (MATRIX,))
    written = (WEIGHTS, *(slot.name for slot in rule.slot_list() if not slot.scalar))
    return Exchanged((*written, GRADIENT) if function == "update" else written, written)


def layout_of_number(rule: Rule, number: str, layout: Layout) -> Layout:
    """The layout of weights, gradient or a slot of a parameter in this layout."""
    slots = {slot.name: slot for slot in rule.slot_list()}
    return slot_layout(rule, slots[number], layout) if number in slots else layout


def dtype_of_number(rule: Rule, number: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of weights, gradient or a slot of a parameter of this dtype that is stored as it is, or of the matrix
    that is made of them."""
    wide = number == MATRIX or any(slot.wide for slot in rule.slot_list() if slot.name == number)
    return torch.promote_types(dtype, torch.float32) if wide else dtype


def whole_here(rule: Rule, layout: Layout) -> bool:
    """Whether what a rank holds of a parameter is whole matrices: it is not cut, or it is a stack, as of experts, that
    is cut between them."""
    if rule.working_shape(layout.shape) != layout.shape or any(dim >= -2 for _, dim in layout.cuts):
        return not layout.cuts
    return all(slot_layout(rule, slot, layout).cuts == layout.cuts for slot in rule.slot_list() if not slot.scalar)


def _of(batch: Batch, members: list[int]) -> Batch:
    """Some parameters of a batch, whose matrices this rank has whole."""
    return batch.of(
        members,
        weights=[batch.weights[index] for index in members],
        gradients=[batch.gradients[index] for index in members],
        columns={name: [column[index] for index in members] for name, column in batch.columns.items()},
    )


def in_rounds(shapes: Sequence[tuple[int, ...]], owners: Sequence[int]) -> list[list[int]]:
    """Which matrices of these shapes are under way together: of each rank's, in their order, about `TOGETHER` numbers
    at a time."""
    ahead: defaultdict[int, int] = defaultdict(int)
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    for place, (shape, owner) in enumerate(zip(shapes, owners, strict=True)):
        rounds[ahead[owner] // TOGETHER].append(place)
        ahead[owner] += math.prod(shape)
    return [rounds[number] for number in sorted(rounds)]


def shared_out(shapes: Sequence[tuple[int, ...]], ranks: int) -> list[int]:
    """For matrices of these shapes, the rank of each: the costliest first, always to the rank with the least to do.

    The cost of a matrix (…, rows, cols) is that of its products: rows · cols · min(rows, cols) each.
    """
    costs = [math.prod(shape) * min(shape[-2:]) if len(shape) > 1 else math.prod(shape) for shape in shapes]
    load = [(0, rank) for rank in range(ranks)]
    owners = [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda index: -costs[index]):
        work, owners[index] = load[0]
        heapq.heapreplace(load, (work + costs[index], owners[index]))
    return owners
