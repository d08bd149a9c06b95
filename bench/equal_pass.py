"""The bandwidth to measure a rule against: a fused pass that loads and stores the same, with next to no arithmetic.

The pass runs in the fused engine, over the same tensors, in the same run. So what a rule's share falls short of 1 is
what its arithmetic and the optimizer around the kernel cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch

from bench.material import Material
from stepwell.algebra import total
from stepwell.codecs import Codec, Plain, Storage, codecs_for
from stepwell.engines.batch import Batch
from stepwell.engines.choice import fused
from stepwell.engines.fused.program import GRADIENT, Program
from stepwell.engines.fused.traces import trace
from stepwell.rules import Rule

PASS = "equal pass"
_AS_THE_WEIGHTS = Storage()
# A tensor that no exception for small ones is made for.
_LARGE = (1024, 1024)


Traffic = tuple[tuple[frozenset[str], frozenset[str]], ...]


class _Passes(Rule, abstract=True):
    """Goes over the tensors as often as `traffic` has phases; each loads and stores what it says there.

    What a phase adds up, the next one waits for. Before all that it measures what it says, if anything.
    """

    traffic: ClassVar[Traffic]
    measured: ClassVar[frozenset[str]]

    def measure(self, p: Any, g: Any, s: Any, h: Any) -> Mapping[str, Any]:
        now = {"p": p, "g": g, **vars(s)}
        return {"sum": sum((now[name] for name in sorted(self.measured)), start=0.0)}

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        now = {"p": p, "g": g, **vars(s)}
        slots: dict[str, Any] = {}
        factor = h.lr
        for last, (loads, stores) in enumerate(self.traffic, start=1 - len(self.traffic)):
            step = factor * sum((now[name] for name in sorted(loads)), start=0.0)
            slots |= {name: now[name] + step for name in sorted(stores - {"p"})}
            now |= slots
            if last == 0:
                return p + step, slots
            factor = h.lr + h.lr * total(step)
        raise AssertionError("a program has phases")


def equal_rule(rule: Rule) -> Rule | None:
    """A rule with the phases, loads and stores of this one; None for rules of matrices, which products bound."""
    if rule.acts_on == "matrices":
        return None
    found = _with_traffic(traffic(trace(rule)), measured_by(rule))
    return found if traffic(trace(found)) == traffic(trace(rule)) else None


@functools.cache
def _with_traffic(wanted: Traffic, measured: frozenset[str]) -> Rule:
    slots = measured.union(*(names for phase in wanted for names in phase)) - {"p", "g"}
    acts_on = "elements" if len(wanted) == 1 else "tensors"
    members = {"slots": tuple(sorted(slots)), "traffic": wanted, "measured": measured, "acts_on": acts_on}
    return cast("Rule", type(f"Passes{len(slots)}", (_Passes,), members, abstract=True)(lr=1e-12))


def measured_by(rule: Rule) -> frozenset[str]:
    """What a rule loads to measure all parameters before it updates any; nothing, for most."""
    if type(rule).measure is Rule.measure:
        return frozenset()
    return frozenset(name for phase in trace(rule, "measure").phases for name in phase.loads)


def bytes_per_element(rule: Rule, dtype: torch.dtype, storage: Storage = _AS_THE_WEIGHTS) -> float | None:
    """The bytes that a fused step of the rule loads and stores for each weight; None for rules of matrices."""
    if rule.acts_on == "matrices":
        return None
    codecs = codecs_for(rule, _LARGE, dtype, storage)
    program = trace(rule, stores_round=any(codec.rounds for codec in codecs.values()))
    sizes = {number: _bytes(codec) for number, codec in {**codecs, GRADIENT: Plain(dtype)}.items()}
    return round(program.bytes_per_element(sizes) + sum(sizes[name] for name in measured_by(rule)), 2)


def _bytes(codec: Codec) -> float:
    held = [torch.Size(shape).numel() * dtype.itemsize for shape, dtype in codec.layout(_LARGE)]
    return sum(held) / torch.Size(_LARGE).numel()


def traffic(program: Program) -> Traffic:
    """What each phase loads and stores."""
    return tuple((frozenset(phase.loads), frozenset(name for name, _ in phase.stores)) for phase in program.phases)


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

    def run() -> None:
        if measured_by(rule):
            engine.measure(batch)
        engine.apply(batch)

    return run
