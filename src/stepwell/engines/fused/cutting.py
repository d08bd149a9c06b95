"""A graph, cut at its reductions into phases over the elements and finishes over the tensors between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stepwell.algebra.tracing import Expression, Graph, Level
from stepwell.engines.fused.program import GRADIENT, WEIGHTS, Finish, Loop, Phase, Program

REDUCTIONS = ("total", "row_total", "column_total")
_BETWEEN = (Level.TENSOR, Level.ROW, Level.COLUMN)

# When a number is worked out: the step (phases have odd numbers), and within a finish the loop.
Place = tuple[int, int]


def cut(
    name: str,
    graph: Graph,
    levels: Mapping[str, Level],
    *,
    stores: Mapping[str, Any] | None = None,
    scalar_slots: Mapping[str, Any] | None = None,
    totals: Mapping[str, Expression] | None = None,
    stores_round: bool = False,
) -> Program:
    """The program that stores these values in these arrays and adds up these totals.

    Args:
        name: the program's name.
        graph: where the values come from.
        levels: how much an array holds: a number for each element (where it is not named), row, column, or tensor.
        stores: the new value of each array.
        scalar_slots: the new value of each scalar slot.
        totals: sums over the elements of a tensor, or of each of its rows, which the caller wants to know.
        stores_round: a stored number is not the number that was worked out: then elements are stored in the last
            phase, so that no phase works with rounded values.
    """
    roots = {array: _at_level(name, graph, array, e, levels) for array, e in (stores or {}).items()}
    # A store of what is there already (a slot the rule did not touch) is no store.
    roots = {
        array: _reciprocals(graph, e) for array, e in roots.items() if not (e.operation == "load" and e.value == array)
    }
    wanted = {total: _reciprocals(graph, e) for total, e in (totals or {}).items()}
    cutter = _Cutter(roots, wanted, stores_round)
    phases, finishes, kept = cutter.phases(), cutter.finishes(), cutter.kept
    host = {
        slot: value if isinstance(value, Expression) else graph.apply("add", value, 0.0)
        for slot, value in (scalar_slots or {}).items()
    }
    arrays = {a for phase in phases for a in (*phase.loads, *(array for array, _ in phase.stores))}
    arrays |= {e.value for e in cutter.nodes if e.operation == "load" and e.level in _BETWEEN}
    arrays |= {array for array, e in roots.items() if e.level in _BETWEEN}
    return Program(
        name=name,
        arrays=tuple(sorted(arrays, key=_order)),
        levels={array: levels.get(array, Level.ELEMENT) for array in arrays},
        scalars=_scalars_needed(cutter.nodes, roots.values()),
        scalar_slots=tuple(host.items()),
        totals=tuple(wanted.items()),
        kept={level: tuple(e for e in kept if e.level is level) for level in _BETWEEN},
        phases=phases,
        finishes=finishes,
        adds_below=graph.adds_below,
    )


class _Cutter:
    """Decides what is worked out in which step."""

    def __init__(self, roots: Mapping[str, Expression], totals: Mapping[str, Expression], stores_round: bool) -> None:
        self._roots = {array: e for array, e in roots.items() if e.level is Level.ELEMENT}
        self._between = {array: e for array, e in roots.items() if e.level in _BETWEEN}
        self._totals = set(totals.values())
        self.nodes = _reachable([*roots.values(), *totals.values()])
        self._place = _places(self.nodes)
        self._store_phase = {array: self._place[e][0] // 2 for array, e in self._roots.items()}
        reduced = [e.arguments[0] for e in self.nodes if e.operation in REDUCTIONS]
        reduced = [e for e in reduced if e.level is Level.ELEMENT]
        self._phases = 1 + max([*self._store_phase.values(), *(self._place[e][0] // 2 for e in reduced)], default=-1)
        if stores_round:
            self._store_phase = dict.fromkeys(self._store_phase, self._phases - 1)
        self._made: list[Phase] = []

    def phases(self) -> tuple[Phase, ...]:
        """The passes over the elements."""
        while len(self._made) < self._phases:
            phase, late = self._phase(len(self._made))
            if late:  # this phase needs a slot's old value that an earlier one has overwritten: store it here instead
                self._store_phase.update({array: len(self._made) for array in late})
                self._made = []
                continue
            self._made.append(phase)
        return tuple(self._made)

    def _phase(self, number: int) -> tuple[Phase, list[str]]:
        already_stored = {e: array for array, e in self._roots.items() if self._store_phase[array] < number}
        stores = tuple((array, e) for array, e in self._roots.items() if self._store_phase[array] == number)
        adds = tuple(
            e
            for e in self.nodes
            if e.operation in REDUCTIONS
            and e.arguments[0].level is Level.ELEMENT
            and self._place[e.arguments[0]][0] // 2 == number
        )
        needed = _reachable([*(e for _, e in stores), *(e.arguments[0] for e in adds)], stop=already_stored)
        loaded = [e for e in needed if e.operation == "load" and e.level is Level.ELEMENT]
        loads = {e.value for e in loaded} | {already_stored[e] for e in needed if e in already_stored}
        late = [e.value for e in loaded if e not in already_stored and self._store_phase.get(e.value, number) < number]
        leaves = tuple(e for e in needed if e.level in _BETWEEN)
        values = tuple(e for e in needed if e.level is Level.ELEMENT)
        return Phase(stores, adds, tuple(sorted(loads, key=_order)), leaves, values, already_stored), late

    @property
    def _stored_at(self) -> dict[str, Place]:
        """Where the numbers between are stored: as soon as they are known, and their old value is not needed more."""
        found = {}
        for array, e in self._between.items():
            readers = [reader for reader, argument in self._uses() if argument.value == array]
            found[array] = max([self._place[e], *map(self._reading_place, readers)])
        return found

    def _uses(self) -> list[tuple[Expression, Expression]]:
        """What is made of numbers between, and which."""
        return [(e, a) for e in self.nodes for a in e.arguments if a.level in _BETWEEN]

    def _reading_place(self, reader: Expression) -> Place:
        """Where `reader` uses its arguments: what is between is handed to the elements by the first finish."""
        if reader.level is Level.ELEMENT:
            return (0, 0)
        place = self._place[reader]
        return (place[0], place[1] - 1) if reader.operation in REDUCTIONS else place

    @property
    def kept(self) -> list[Expression]:
        """The numbers between that another step, or another loop, or the caller uses."""
        found = {leaf for phase in self._made for leaf in phase.leaves} | self._totals
        found |= {e for e in self.nodes if e.operation in ("row_total", "column_total")}
        for reader, argument in self._uses():
            if reader.level is Level.ELEMENT or argument.operation in ("load", "count"):
                continue
            at, made = self._reading_place(reader), self._place[argument]
            if at[0] != made[0] or (at != made and argument.level is not Level.TENSOR):
                found.add(argument)
        for array, at in self._stored_at.items():
            if at != self._place[self._between[array]]:
                found.add(self._between[array])
        return sorted(found, key=lambda e: e.index)

    def finishes(self) -> tuple[Finish | None, ...]:
        """What lies before, between and after the phases."""
        kept, stored_at = set(self.kept), self._stored_at
        return tuple(self._finish(2 * number, kept, stored_at) for number in range(self._phases + 1))

    def _finish(self, step: int, kept: set[Expression], stored_at: Mapping[str, Place]) -> Finish | None:
        here = [e for e in self.nodes if e.level in _BETWEEN and self._place[e][0] == step]
        sums = tuple(e for e in here if e.operation in REDUCTIONS and e.arguments[0].level is Level.ELEMENT)
        parts = [self._place[e][1] for e in here] + [part for at, part in stored_at.values() if at == step]
        loops: list[Loop] = []
        for part in range(max(parts, default=-1) + 1):
            of_part: dict[Level, Loop] = {}
            for level in _BETWEEN:
                values = tuple(
                    e
                    for e in here
                    if e.level is level
                    and self._place[e][1] == part
                    and e.operation not in REDUCTIONS
                    and (e.operation not in ("load", "count") or e in kept)
                )
                stores = tuple(
                    (array, e)
                    for array, e in self._between.items()
                    if e.level is level and stored_at[array] == (step, part)
                )
                totals = tuple(
                    e
                    for e in here
                    if e.operation == "total" and e.arguments[0].level is level and self._place[e] == (step, part + 1)
                )
                if values or stores or totals:
                    of_part[level] = Loop(level, values, stores, totals)
            once = of_part.get(Level.TENSOR)
            if once is not None and once.stores and len(of_part) > 1:  # rows and columns may want what stands there
                of_part[Level.TENSOR] = replace(once, stores=())
                loops += [*of_part.values(), Loop(Level.TENSOR, (), once.stores, ())]
            else:
                loops += of_part.values()
        return Finish(sums, tuple(loops)) if sums or loops else None


def _places(nodes: list[Expression]) -> dict[Expression, Place]:
    """When each number can be worked out. A sum over the elements of a phase belongs to the finish after it; a sum over
    rows or columns is known after the loop over these."""
    places: dict[Expression, Place] = {}
    for node in nodes:
        before = [places[a] for a in node.arguments if a.level > Level.SCALAR]
        step, part = max(before, default=(0, 0))
        if node.level <= Level.SCALAR:
            continue
        if node.operation in REDUCTIONS:
            places[node] = (step + 1, 0) if node.arguments[0].level is Level.ELEMENT else (step, part + 1)
        elif node.level is Level.ELEMENT:
            places[node] = (step if step % 2 else step + 1, 0)
        else:
            places[node] = (step, part)
    return places


def _reachable(roots: Iterable[Expression], stop: Mapping[Expression, str] | None = None) -> list[Expression]:
    """All nodes under the roots, arguments before what is made of them. Nothing is looked for under `stop`, nor (when a
    phase is listed) under what is no element's: an earlier step has worked it out."""
    seen: dict[int, Expression] = {}
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node.index in seen:
            continue
        seen[node.index] = node
        if stop is not None and (node in stop or node.level < Level.ELEMENT):
            continue
        pending.extend(node.arguments)
    return [seen[index] for index in sorted(seen)]


def _reciprocals(graph: Graph, root: Expression) -> Expression:
    """The same arithmetic with every division of an element by something less often worked out as a product with its
    reciprocal, which costs one division a launch (a tensor, a row, a column) instead of one an element."""
    new: dict[Expression, Expression] = {}
    for node in _reachable([root]):
        arguments = tuple(new[a] for a in node.arguments)
        if node.operation == "div" and node.level is Level.ELEMENT and arguments[1].level < Level.ELEMENT:
            # The host, which works out scalars, would raise where one is 0.
            of_host = arguments[1].level <= Level.SCALAR
            share = graph.apply("reciprocal", arguments[1]) if of_host else graph.apply("div", 1.0, arguments[1])
            new[node] = graph.apply("mul", arguments[0], share)
        elif all(a is b for a, b in zip(arguments, node.arguments, strict=True)):
            new[node] = node
        elif node.operation in REDUCTIONS:
            new[node] = graph.reduce(node.operation, arguments[0])
        elif node.operation == "spread":
            new[node] = graph.spread(arguments[0], node.level)
        else:
            new[node] = graph.apply(node.operation, *arguments)
    return new[root]


def _scalars_needed(used: list[Expression], roots: Iterable[Expression]) -> tuple[Expression, ...]:
    """The scalars that appear as arguments of tensors and elements: the rest of the scalar arithmetic is the host's."""
    needed = {a for e in used for a in e.arguments if e.level > Level.SCALAR and a.level is Level.SCALAR}
    needed |= {e for e in roots if e.level is Level.SCALAR}
    return tuple(sorted(needed, key=lambda e: e.index))


def _at_level(name: str, graph: Graph, array: str, value: Any, levels: Mapping[str, Level]) -> Expression:
    """The value as one number for each that the array holds."""
    level = levels.get(array, Level.ELEMENT)
    node = value if isinstance(value, Expression) else graph.apply("add", value, 0.0)
    fits = node.level <= Level.TENSOR or node.level is level or level is Level.ELEMENT
    if not fits or (level is Level.TENSOR and node.level > level):
        holds, given = level.name.lower(), node.level.name.lower()
        raise TypeError(
            f"{name}: the slot {array!r} holds one number for each {holds}, and its new value has one for each {given}"
        )
    return graph.spread(node, level)


def _order(array: str) -> tuple[bool, bool, str]:
    return (array != WEIGHTS, array != GRADIENT, array)
