"""From a rule to a program: what is worked out once a launch, once a tensor, and once an element, and in which phase.

Where a reduction (a norm) stands in a rule's arithmetic, the trace is cut: one phase accumulates it, a later one uses
it. A new slot value is stored by the first phase that has it; later phases load it instead of working it out again,
so that nothing the size of the model is kept between phases. The program knows nothing of the language it will be
written in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra.tracing import Expression, Graph, Level
from stepwell.rules.hyper import is_switch
from stepwell.rules.rule import Rule, flags, hyper_parameters, namespace

WEIGHTS, GRADIENT = "p", "g"


@dataclass(frozen=True)
class Phase:
    """One pass over the elements: what it stores, and what it adds up for later phases.

    `values` are the nodes to work out for each element, in order; `per_tensor` those to work out once a tensor,
    before. Both may refer to `Program.scalars`.
    """

    stores: tuple[tuple[str, Expression], ...]
    reductions: tuple[Expression, ...]
    loads: tuple[str, ...]
    per_tensor: tuple[Expression, ...]
    values: tuple[Expression, ...]
    already_stored: Mapping[Expression, str]


@dataclass(frozen=True)
class Program:
    """One rule's function, ready to be written as a kernel."""

    name: str
    arrays: tuple[str, ...]
    scalars: tuple[Expression, ...]
    scalar_slots: tuple[tuple[str, Expression], ...]
    reductions: tuple[Expression, ...]
    totals: tuple[tuple[str, Expression], ...]
    phases: tuple[Phase, ...]

    def position(self, reduction: Expression) -> int:
        """Which of the reductions this is."""
        return [known.index for known in self.reductions].index(reduction.index)

    def bytes_per_element(self, sizes: Mapping[str, int]) -> int:
        """The bytes that the phases load and store for each element, `sizes` being bytes a number by array."""
        return sum(
            sum(sizes[name] for name in phase.loads) + sum(sizes[name] for name, _ in phase.stores)
            for phase in self.phases
        )


def trace(rule: Rule, function: str = "update", *, stores_round: bool = False) -> Program:
    """The program of `rule.update` (or of another method of a rule that gives weights: `averaged`, `training`).

    `stores_round` says that a stored number is not the number that was stored (bfloat16): then all is stored in the
    last phase, so that no phase works with rounded values.
    """
    graph = Graph()
    p, g = graph.load(WEIGHTS), graph.load(GRADIENT) * graph.symbol("gradient_factor")
    slots = {
        slot.name: graph.symbol(f"s.{slot.name}") if slot.scalar else graph.load(slot.name) for slot in rule.slot_list()
    }
    s = namespace({**slots, "step": graph.symbol("s.step")})
    h = namespace(symbols(graph, rule))
    if function == "measure":
        totals = {name: graph.reduce("total", value) for name, value in rule.measure(p, g, s, h).items()}
        return _cut(f"{type(rule).__name__}.measure", graph, {}, {}, totals, stores_round=False)
    if function == "update":
        weights, new_slots = rule.update(p, g, s, h)
    else:
        weights, new_slots = rule.exchange(function, p, s, h)
    return _program(f"{type(rule).__name__}.{function}", graph, rule, weights, new_slots, stores_round)


def trace_total(name: str, function: Any) -> Program:
    """The program that only adds up: Σ function(g) over the elements of each tensor."""
    graph = Graph()
    total = graph.reduce("total", function(graph.load(GRADIENT)))
    return _cut(name, graph, {}, {}, {"total": total}, stores_round=False)


def symbols(graph: Graph, rule: Rule) -> dict[str, Any]:
    """The hyper-parameters as the tracer sees them: numbers are symbols; flags, choices and counts are themselves."""
    plain = dict(flags(type(rule), rule.values()))
    known = hyper_parameters(type(rule))
    values: dict[str, Any] = {}
    for name, value in rule.values().items():
        if name in plain:
            values[name] = value
        elif isinstance(value, tuple):
            values[name] = tuple(graph.symbol(f"h.{name}[{index}]") for index in range(len(value)))
        else:
            values[name] = graph.symbol(f"h.{name}", truth=is_switch(known[name]))
    return values


def _program(
    name: str, graph: Graph, rule: Rule, weights: Any, new_slots: Mapping[str, Any], stores_round: bool
) -> Program:
    scalar = {slot.name for slot in rule.slot_list() if slot.scalar}
    rule.check_slots(new_slots)
    stores = {slot: value for slot, value in new_slots.items() if slot not in scalar}
    stores[WEIGHTS] = weights
    scalar_slots = {slot: value for slot, value in new_slots.items() if slot in scalar}
    for slot, value in scalar_slots.items():
        if isinstance(value, Expression) and value.level > Level.SCALAR:
            raise TypeError(f"{name}: the scalar slot {slot!r} is made of tensors; it can only be made of numbers")
    return _cut(name, graph, stores, scalar_slots, {}, stores_round=stores_round)


def _cut(
    name: str,
    graph: Graph,
    stores: Mapping[str, Any],
    scalar_slots: Mapping[str, Any],
    totals: Mapping[str, Expression],
    *,
    stores_round: bool,
) -> Program:
    """Cut the graph into phases at its reductions, then list what each phase has to work out."""
    roots = {array: _as_element(graph, value) for array, value in stores.items()}
    # A store of what is there already (a slot the rule did not touch) is no store.
    roots = {
        array: _reciprocals(graph, e) for array, e in roots.items() if not (e.operation == "load" and e.value == array)
    }
    totals = {total: _reciprocals(graph, e) for total, e in totals.items()}
    reachable = _reachable([*roots.values(), *totals.values()])
    reductions = tuple(e for e in reachable if e.operation == "total")
    ready = _ready(reachable)

    store_phase = {array: ready[e] for array, e in roots.items()}
    number_of_phases = 1 + max([*store_phase.values(), *(ready[r.arguments[0]] for r in reductions)], default=0)
    if stores_round:
        store_phase = dict.fromkeys(store_phase, number_of_phases - 1)
    phases: list[Phase] = []
    while len(phases) < number_of_phases:
        phase, late = _phase(len(phases), roots, reductions, ready, store_phase)
        if late:  # this phase needs a slot's old value that an earlier phase has overwritten: store it here instead
            store_phase.update({array: len(phases) for array in late})
            phases = []
            continue
        phases.append(phase)

    used = [*(e for phase in phases for e in (*phase.per_tensor, *phase.values)), *roots.values(), *totals.values()]
    scalars = _scalars_needed(used, roots.values())
    arrays = sorted(
        {a for phase in phases for a in (*phase.loads, *(stored for stored, _ in phase.stores))}, key=_order
    )
    host = {
        slot: value if isinstance(value, Expression) else graph.apply("add", value, 0.0)
        for slot, value in scalar_slots.items()
    }
    return Program(name, tuple(arrays), scalars, tuple(host.items()), reductions, tuple(totals.items()), tuple(phases))


def _phase(
    number: int,
    roots: Mapping[str, Expression],
    reductions: tuple[Expression, ...],
    ready: Mapping[Expression, int],
    store_phase: Mapping[str, int],
) -> tuple[Phase, list[str]]:
    already_stored = {e: array for array, e in roots.items() if store_phase[array] < number}
    stores = tuple((array, e) for array, e in roots.items() if store_phase[array] == number)
    adds = tuple(r for r in reductions if ready[r.arguments[0]] == number)
    needed = _reachable([*(e for _, e in stores), *(r.arguments[0] for r in adds)], stop=already_stored)
    loads = {e.value for e in needed if e.operation == "load"} | {
        already_stored[e] for e in needed if e in already_stored
    }
    late = [
        e.value
        for e in needed
        if e.operation == "load" and e not in already_stored and store_phase.get(e.value, number) < number
    ]
    per_tensor = tuple(e for e in needed if e.level is Level.TENSOR)
    values = tuple(e for e in needed if e.level is Level.ELEMENT)
    return Phase(stores, adds, tuple(sorted(loads, key=_order)), per_tensor, values, already_stored), late


def _reachable(roots: Iterable[Expression], stop: Mapping[Expression, str] | None = None) -> list[Expression]:
    """All nodes under the roots, arguments before what is made of them. Nothing is looked for under `stop`,
    nor (when phases are listed) under a reduction, which an earlier phase has worked out."""
    seen: dict[int, Expression] = {}
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node.index in seen:
            continue
        seen[node.index] = node
        if stop is not None and (node in stop or node.operation == "total"):
            continue
        pending.extend(node.arguments)
    return [seen[index] for index in sorted(seen)]


def _ready(nodes: list[Expression]) -> dict[Expression, int]:
    """The first phase in which each node can be worked out: one after that which adds up what it is made of."""
    ready: dict[Expression, int] = {}
    for node in nodes:
        first = max((ready[argument] for argument in node.arguments), default=0)
        ready[node] = first + 1 if node.operation == "total" else first
    return ready


def _reciprocals(graph: Graph, root: Expression) -> Expression:
    """The same arithmetic with every division by a scalar as a product with its reciprocal, which costs one division
    a launch instead of one an element."""
    new: dict[Expression, Expression] = {}
    for node in _reachable([root]):
        arguments = tuple(new[a] for a in node.arguments)
        if node.operation == "div" and node.level is Level.ELEMENT and arguments[1].level < Level.ELEMENT:
            new[node] = graph.apply("mul", arguments[0], graph.apply("div", 1.0, arguments[1]))
        elif all(a is b for a, b in zip(arguments, node.arguments, strict=True)):
            new[node] = node
        elif node.operation == "total":
            new[node] = graph.reduce("total", arguments[0])
        else:
            new[node] = graph.apply(node.operation, *arguments)
    return new[root]


def _scalars_needed(used: list[Expression], roots: Iterable[Expression]) -> tuple[Expression, ...]:
    """The scalars that appear as arguments of tensors and elements: the rest of the scalar arithmetic is the host's."""
    needed = {a for e in used for a in e.arguments if e.level > Level.SCALAR and a.level is Level.SCALAR}
    needed |= {e for e in roots if e.level is Level.SCALAR}
    return tuple(sorted(needed, key=lambda e: e.index))


def _as_element(graph: Graph, value: Any) -> Expression:
    if isinstance(value, Expression) and value.level is Level.ELEMENT:
        return value
    node = value if isinstance(value, Expression) else graph.apply("add", value, 0.0)
    return graph.spread(node)


def _order(array: str) -> tuple[bool, bool, str]:
    return (array != WEIGHTS, array != GRADIENT, array)
