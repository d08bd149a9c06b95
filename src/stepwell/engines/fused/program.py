"""From a rule to a program: what is worked out once a launch, a tensor, a row, a column and an element, and when.

Where a reduction (a norm, a mean over rows) stands in a rule's arithmetic, the trace is cut: one phase goes through the
elements and adds up, then what was added up is finished tensor by tensor, and a later phase uses it. A new slot value
is stored by the first phase that has it; later phases load it instead of working it out again, so that nothing the
size of the model is kept between phases. The program knows nothing of the language it will be written in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepwell.algebra.tracing import Expression, Level

WEIGHTS, GRADIENT = "p", "g"

Stores = tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class Phase:
    """One pass over the elements: what it stores, and what it adds up for later phases.

    `values` are the nodes to work out for each element, in order. They are made of what is loaded, of
    `Program.scalars`, and of `leaves`: numbers a tensor, a row or a column that an earlier step has kept.
    """

    stores: Stores
    reductions: tuple[Expression, ...]
    loads: tuple[str, ...]
    leaves: tuple[Expression, ...]
    values: tuple[Expression, ...]
    already_stored: Mapping[Expression, str]

    def reductions_to(self, level: Level) -> list[Expression]:
        """What is added up to one number a tensor, a row, or a column."""
        return [reduction for reduction in self.reductions if reduction.level is level]


@dataclass(frozen=True)
class Loop:
    """A part of a finish: numbers a tensor (then there is no loop), or a loop over a tensor's rows or columns.

    `totals` are sums over the loop, which the next part may use.
    """

    level: Level
    values: tuple[Expression, ...]
    stores: Stores
    totals: tuple[Expression, ...]


@dataclass(frozen=True)
class Finish:
    """What is worked out between two phases, tensor by tensor, from what the first of them has added up."""

    sums: tuple[Expression, ...]
    loops: tuple[Loop, ...]

    @property
    def is_short(self) -> bool:
        """Whether it works out a few numbers a tensor, and none a row or column. (A phase adds up rows by itself.)"""
        summed = all(e.level is not Level.COLUMN for e in self.sums)
        return summed and all(loop.level is Level.TENSOR for loop in self.loops)


@dataclass(frozen=True)
class Program:
    """One rule's function, ready to be written as a kernel.

    `finishes[k]` comes before `phases[k]`, and the last one after all of them; None where there is nothing to do.
    `kept` are the numbers a tensor, a row and a column that one step leaves for a later one. `adds_below` says that
    what stands below each other is added up, be it not kept.
    """

    name: str
    arrays: tuple[str, ...]
    levels: Mapping[str, Level]
    scalars: tuple[Expression, ...]
    scalar_slots: Stores
    totals: Stores
    kept: Mapping[Level, tuple[Expression, ...]]
    phases: tuple[Phase, ...]
    finishes: tuple[Finish | None, ...]
    adds_below: bool = False

    @property
    def reductions(self) -> tuple[Expression, ...]:
        """All that the phases add up."""
        return tuple(reduction for phase in self.phases for reduction in phase.reductions)

    @property
    def sums(self) -> list[Expression]:
        """What is added up over the chunks of each tensor."""
        return [reduction for reduction in self.reductions if reduction.level is Level.TENSOR]

    @property
    def row_sums(self) -> list[Expression]:
        """What is added up over each row."""
        return [reduction for reduction in self.reductions if reduction.level is Level.ROW]

    @property
    def column_sums(self) -> list[Expression]:
        """What is added up over the chunks of each tensor, column by column."""
        return [reduction for reduction in self.reductions if reduction.level is Level.COLUMN]

    def keeps(self, e: Expression) -> bool:
        """Whether this number is kept."""
        return any(known is e for known in self.kept[e.level])

    def position(self, e: Expression) -> int:
        """Which of the numbers kept at its level this is."""
        return _position(self.kept[e.level], e)

    def sum_position(self, e: Expression) -> int:
        """Which of the sums, of the row sums, or of the column sums, this is."""
        of_level = {Level.TENSOR: self.sums, Level.ROW: self.row_sums, Level.COLUMN: self.column_sums}
        return _position(of_level[e.level], e)

    @property
    def steps(self) -> list[tuple[int, Phase | Finish]]:
        """The phases and finishes in their order, under their numbers: phases have the odd ones."""
        found: list[tuple[int, Phase | Finish]] = []
        for number, finish in enumerate(self.finishes):
            if finish is not None:
                found.append((2 * number, finish))
            if number < len(self.phases):
                found.append((2 * number + 1, self.phases[number]))
        return found

    @property
    def has_rows(self) -> bool:
        """Whether it asks where a row ends."""
        return bool(self.kept[Level.ROW] or self.kept[Level.COLUMN]) or not {Level.ROW, Level.COLUMN}.isdisjoint(
            self.levels.values()
        )

    @property
    def has_columns(self) -> bool:
        """Whether it asks what stands below what: then it takes two-dimensional tensors."""
        return self.adds_below or bool(self.kept[Level.COLUMN]) or Level.COLUMN in self.levels.values()

    def bytes_per_element(self, sizes: Mapping[str, float]) -> float:
        """The bytes that the phases load and store for each element, `sizes` being bytes a number by array."""
        return sum(
            sum(sizes[name] for name in phase.loads) + sum(sizes[name] for name, _ in phase.stores)
            for phase in self.phases
        )


def _position(nodes: Sequence[Expression], e: Expression) -> int:
    """Comparing expressions makes an expression; their numbers can be compared."""
    return [node.index for node in nodes].index(e.index)
