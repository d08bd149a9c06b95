"""Rules and sums, traced: their Python is run once, on numbers that record what is done to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from stepwell.algebra import square
from stepwell.algebra.tracing import Expression, Graph, Level
from stepwell.engines.fused.cutting import cut
from stepwell.engines.fused.program import GRADIENT, WEIGHTS, Program
from stepwell.engines.observing import OBSERVED, UNITS
from stepwell.rules.hyper import is_switch
from stepwell.rules.matrix_rule import OneMatrixRule
from stepwell.rules.rule import Rule, Shape, column_wise, flags, hyper_parameters, namespace, row_wise, tensor_wise

SLOT_LEVELS: dict[Callable[[Shape], Shape] | None, Level] = {
    None: Level.ELEMENT,
    row_wise: Level.ROW,
    column_wise: Level.COLUMN,
    tensor_wise: Level.TENSOR,
}

_REDUCTIONS = {"total", "row_total", "column_total"}
_HELD: set[tuple[Any, ...]] = set()


class ClaimError(TypeError):
    """A rule says that it acts on elements, and reduces over tensors."""


# What an update adds up on its way: nothing, sums over each tensor, or those of the gradient over each row.
Observed = Literal["", "totals", "units"]


def trace(
    rule: Rule,
    function: str = "update",
    *,
    stores_round: bool = False,
    observed: Observed = "",
) -> Program:
    """The program of `rule.update` (or of another method of a rule that gives weights: `averaged`, `training`; of
    `moved`, with the direction in the gradient's place; of `mix`, which gives a matrix in the weights' place).

    `stores_round` says that a stored number is not the number that was stored (bfloat16): then all is stored in the
    last phase, so that no phase works with rounded values. `observed` adds up the squares of what weights move by, of
    the weights and of the gradient, under the names of `stepwell.engines.observing.OBSERVED`; where it says "units"
    those of the gradient over each row, under the name `UNITS`.
    """
    graph = Graph()
    p, g = graph.load(WEIGHTS), graph.load(GRADIENT) * graph.symbol("gradient_factor")
    tensors = [slot for slot in rule.slot_list() if not slot.scalar and function != "moved"]
    levels = {slot.name: SLOT_LEVELS[slot.shape] for slot in tensors}
    slots = {
        slot.name: graph.symbol(f"s.{slot.name}") if slot.scalar else graph.load(slot.name, levels[slot.name])
        for slot in rule.slot_list()
        if slot.scalar or slot.name in levels
    }
    s = namespace({**slots, "step": graph.symbol("s.step")})
    values = symbols(graph, rule)
    h, rule = namespace(values), _with(rule, values)
    name = f"{type(rule).__name__}.{function}"
    if function == "measure":
        measured = rule.measure(p, g, s, h)
        _hold_to_claim(rule, name, graph)
        totals = {what: graph.reduce("total", value) for what, value in measured.items()}
        return cut(name, graph, levels, totals=totals)
    new_slots: Mapping[str, Any] = {}
    if function == "update":
        weights, new_slots = rule.update(p, g, s, h)
    elif function == "moved":
        weights = rule.moved(p, g, s, h)
    elif isinstance(rule, OneMatrixRule) and function == "mix":
        weights, new_slots = rule.mix(p, g, s, h)
    else:
        weights, new_slots = rule.exchange(function, p, s, h)
    rule.check_slots(new_slots)
    stores = {slot: value for slot, value in new_slots.items() if slot in levels}
    stores[WEIGHTS] = weights
    scalar_slots = {slot: value for slot, value in new_slots.items() if slot not in levels}
    for slot, value in scalar_slots.items():
        if isinstance(value, Expression) and value.level > Level.SCALAR:
            raise TypeError(f"{name}: the scalar slot {slot!r} is made of tensors; it can only be made of numbers")
    _hold_to_claim(rule, name, graph)  # before anything else is added up on the way
    seen = dict(zip(OBSERVED, (weights - p, p, g), strict=True)) if observed else {}
    rows = {UNITS: seen.pop("gradient")} if observed == "units" else {}
    totals = {what: graph.reduce("total", square(value)) for what, value in seen.items()}
    totals |= {what: graph.reduce("row_total", square(value)) for what, value in rows.items()}
    return cut(name, graph, levels, stores=stores, scalar_slots=scalar_slots, totals=totals, stores_round=stores_round)


def _hold_to_claim(rule: Rule, name: str, graph: Graph) -> None:
    if rule.acts_on == "elements" and any(node.operation in _REDUCTIONS for node in graph.nodes):
        raise ClaimError(
            f"{name} takes a norm, mean or total of a tensor, and not each element by itself: say acts_on = 'tensors' "
            "in the class"
        )


def hold_to_claim(rule: Rule) -> None:
    """Raise ClaimError where a rule that says it acts on elements reduces over tensors: on parts of a tensor it would
    be wrong, and nobody would see it. A rule that no trace can follow is believed."""
    key = (type(rule), flags(type(rule), rule.values()))
    if rule.acts_on != "elements" or key in _HELD:
        return
    exchanges = [function for function in ("averaged", "training") if hasattr(rule, function)]
    measures = [] if type(rule).measure is Rule.measure else ["measure"]
    for function in ("update", *exchanges, *measures):
        try:
            trace(rule, function)
        except ClaimError:
            raise
        except Exception:  # a rule may ask its numbers for anything, also for what a trace cannot tell
            continue
    _HELD.add(key)


def _with(rule: Rule, values: Mapping[str, Any]) -> Rule:
    """The rule with these in place of its hyper-parameters: what it asks itself for is what stands in `h`."""
    made = object.__new__(type(rule))
    vars(made).update({**vars(rule), **values})
    return made


def trace_total(name: str, function: Any) -> Program:
    """The program that only adds up: Σ function(g) over the elements of each tensor."""
    graph = Graph()
    total = graph.reduce("total", function(graph.load(GRADIENT)))
    return cut(name, graph, {}, totals={"total": total})


def symbols(graph: Graph, rule: Rule) -> dict[str, Any]:
    """The hyper-parameters as the tracer sees them: numbers are symbols; flags, choices and counts are themselves."""
    plain = dict(flags(type(rule), rule.values()))
    known = hyper_parameters(type(rule))
    return {
        name: value if name in plain else _symbol(graph, f"h.{name}", value, truth=is_switch(known[name]))
        for name, value in rule.values().items()
    }


def _symbol(graph: Graph, name: str, value: Any, *, truth: bool) -> Any:
    """The symbol of a number, or those of a tuple's."""
    if isinstance(value, tuple):
        return tuple(_symbol(graph, f"{name}[{index}]", each, truth=False) for index, each in enumerate(value))
    return graph.symbol(name, truth=truth)
