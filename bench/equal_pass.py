"""The bandwidth to measure a rule against: a fused pass that loads and stores the same, with next to no arithmetic.

The pass runs in the fused engine, over the same tensors, in the same run. So what a rule's share falls short of 1 is
what its arithmetic and the optimizer around the kernel cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from bench.material import Material
from stepwell.algebra import total
from stepwell.engines.batch import Batch
from stepwell.engines.choice import fused
from stepwell.engines.fused.program import Program
from stepwell.engines.fused.traces import trace
from stepwell.rules import Rule

PASS = "equal pass"


class _OnePass(Rule, abstract=True):
    """Loads weights, gradient and slots, and stores weights and slots."""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        slots = {slot.name: getattr(s, slot.name) + h.lr * g for slot in self.slot_list()}
        return p + h.lr * sum(slots.values(), start=g), slots


class _TwoPasses(Rule, abstract=True):
    """Stores the slots and adds up weights and slots in one pass; changes the weights by the sums in the next."""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        slots = {slot.name: getattr(s, slot.name) + h.lr * g for slot in self.slot_list()}
        step = sum(slots.values(), start=0.0)
        return p + h.lr * (total(p) + total(step)) * step, slots


class _SumsFirst(Rule, abstract=True):
    """Adds up weights and gradient in one pass; stores weights and slots, changed by the sums, in the next."""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        step = (h.lr + h.lr * (total(p) + total(g))) * g
        slots = {slot.name: getattr(s, slot.name) + step for slot in self.slot_list()}
        return p + h.lr * sum(slots.values(), start=step), slots


def equal_rule(rule: Rule) -> Rule | None:
    """A rule with the phases, loads and stores of this one.

    None for rules of matrices, which products bound, and for rules that none of the trivial ones equals: with a number
    a row and a column, Adafactor goes over the tensors three times.
    """
    if rule.acts_on == "matrices":
        return None
    slots = tuple(slot.name for slot in rule.slot_list() if not slot.scalar)
    trivial = (_with_slots(base, slots) for base in (_OnePass, _TwoPasses, _SumsFirst))
    return next((found for found in trivial if traffic(trace(found)) == traffic(trace(rule))), None)


@functools.cache
def _with_slots(base: type[Rule], slots: tuple[str, ...]) -> Rule:
    kind = type(f"{base.__name__.strip('_')}{len(slots)}", (base,), {"slots": slots}, abstract=True)
    return cast("Rule", kind(lr=1e-12))


def bytes_per_element(rule: Rule, itemsize: int) -> int | None:
    """The bytes that a fused step of the rule loads and stores for each weight; None for rules of matrices."""
    if rule.acts_on == "matrices":
        return None
    program = trace(rule)
    return program.bytes_per_element(dict.fromkeys(program.arrays, itemsize))


def traffic(program: Program) -> list[tuple[frozenset[str], frozenset[str]]]:
    """What each phase loads and stores."""
    return [(frozenset(phase.loads), frozenset(name for name, _ in phase.stores)) for phase in program.phases]


def equal_pass(rule: Rule, material: Material) -> Callable[[], None] | None:
    """Runs the pass once; None where there is none for this rule, or no fused engine for this device."""
    trivial, engine = equal_rule(rule), fused(material.parameters[0].device.type)
    weights = [p.detach() for p in material.parameters]
    if trivial is None or engine is None or not all(map(engine.serves, weights)):
        return None
    names = [slot.name for slot in trivial.slot_list()]
    states = [{"step": 1, **{name: w.new_zeros(w.shape) for name in names}} for w in weights]
    batch = Batch(trivial, weights, states, [trivial.values()] * len(weights))
    batch.gradients = material.gradients
    return lambda: engine.apply(batch)
