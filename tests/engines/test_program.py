"""From a rule's arithmetic to phases."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import stepwell
from stepwell.algebra import norm, sqrt, square, total, where
from stepwell.engines.fused.traces import trace, trace_total
from stepwell.rules import LAMB, SGD, AdamW, Lion, ScheduleFreeAdamW
from stepwell.rules.registry import _RULES


@pytest.fixture(autouse=True)
def _own_rules_are_forgotten() -> Any:
    before = dict(_RULES)
    yield
    _RULES.clear()
    _RULES.update(before)


def bytes_of(rule: stepwell.Rule, itemsize: int = 4) -> int:
    program = trace(rule)
    return program.bytes_per_element(dict.fromkeys(program.arrays, itemsize))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (SGD(), 12),  # read p, g; write p
        (SGD(momentum=0.9), 20),
        (Lion(), 20),
        (AdamW(), 28),  # read p, g, m, v; write p, m, v
        (AdamW(amsgrad=True), 36),
        (ScheduleFreeAdamW(), 28),  # read p, g, v, z; write p, v, z
        (LAMB(), 40),  # the same as AdamW but p, then read p, m, v and write p
    ],
    ids=repr,
)
def test_bytes_a_parameter_are_counted_from_the_phases(rule: stepwell.Rule, expected: int) -> None:
    assert bytes_of(rule) == expected
    assert bytes_of(rule, itemsize=2) == expected // 2


def test_an_elementwise_rule_is_one_phase() -> None:
    program = trace(AdamW())
    assert program.arrays == ("p", "g", "exp_avg", "exp_avg_sq")
    assert len(program.phases) == 1
    assert program.reductions == ()


def test_lamb_stores_its_moments_before_the_norms_are_known_and_loads_them_again() -> None:
    first, second = trace(LAMB()).phases
    assert [name for name, _ in first.stores] == ["exp_avg", "exp_avg_sq"]
    assert len(first.reductions) == 2
    assert second.loads == ("p", "exp_avg", "exp_avg_sq")
    assert [name for name, _ in second.stores] == ["p"]
    assert second.reductions == ()


@dataclass(frozen=True, kw_only=True)
class NeedsTheOldSlot(stepwell.Rule):
    """The second phase needs the slot as it was before the step, besides the new one."""

    slots = ("average",)
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
        average = 0.5 * s.average + g
        return s.average / (1 + norm(average)), {"average": average}


def test_a_store_waits_for_the_phase_that_needs_the_old_value() -> None:
    first, second = trace(NeedsTheOldSlot()).phases
    assert first.stores == ()
    assert sorted(name for name, _ in second.stores) == ["average", "p"]


@dataclass(frozen=True, kw_only=True)
class NormOfANorm(stepwell.Rule):
    """A reduction over what another reduction has scaled: three phases."""

    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
        unit = g / norm(g)
        return unit / (1 + sqrt(total(square(unit + p)))), {}


def test_a_norm_is_refused_where_the_rule_says_that_it_acts_on_elements() -> None:
    class Elementwise(NormOfANorm):
        acts_on = "elements"

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(
        TypeError, match=r"^Elementwise\.update takes a norm, .*: say acts_on = 'tensors' in the class$"
    ):
        stepwell.Optimizer([p], Elementwise()).step()
    assert trace(AdamW(), observed="units").reductions  # what is observed on the way is not the rule's


def test_a_reduction_inside_a_reduction_makes_three_phases() -> None:
    program = trace(NormOfANorm())
    assert [len(phase.reductions) for phase in program.phases] == [1, 1, 0]
    assert program.phases[0].loads == ("g",)


@pytest.mark.parametrize("kind", [NeedsTheOldSlot, NormOfANorm])
def test_phases_give_what_the_formula_says(kind: type[stepwell.Rule]) -> None:
    weights = torch.linspace(-1, 1, 3000, dtype=torch.float64).reshape(30, 100)
    gradient = torch.cos(weights * 7)
    found = {}
    for engine in ("reference", "foreach", "fused"):
        p = torch.nn.Parameter(weights.clone())
        optimizer = stepwell.Optimizer([p], kind(lr=0.1), engine=engine)
        for _ in range(3):
            p.grad = gradient
            optimizer.step()
        found[engine] = p.detach()
    p, average = weights.clone(), torch.zeros_like(weights)
    for _ in range(3):
        if kind is NeedsTheOldSlot:
            old, average = average, 0.5 * average + gradient
            p = p - 0.1 * old / (1 + average.norm())
        else:
            unit = gradient / gradient.norm()
            p = p - 0.1 * unit / (1 + (unit + p).norm())
    for engine, values in found.items():
        torch.testing.assert_close(values, p, rtol=0, atol=1e-13, msg=f"{engine} differs")


def test_a_slot_that_the_rule_does_not_touch_is_not_stored() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Still(stepwell.Rule):
        slots = ("kept",)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g, {"kept": s.kept}

    assert trace(Still()).arrays == ("p", "g")


def test_a_slot_that_is_not_declared_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Misspelt(stepwell.Rule):
        slots = ("average",)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g, {"averge": g}

    message = "Misspelt returns the slot 'averge', which `slots` does not declare (did you mean 'average'?)"
    for engine in ("reference", "foreach", "fused"):
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        with pytest.raises(TypeError, match=re.escape(message)):
            stepwell.Optimizer([p], Misspelt(), engine=engine).step()


def test_a_scalar_slot_cannot_be_made_of_tensors() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mixed(stepwell.Rule):
        slots = (stepwell.Slot("number", scalar=True),)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g, {"number": norm(g)}

    with pytest.raises(TypeError, match="the scalar slot 'number' is made of tensors; it can only be made of numbers"):
        trace(Mixed())


def test_flags_are_plain_python_and_numbers_are_not() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Branches(stepwell.Rule):
        flag: bool = True
        tau: float = 1.0

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            if h.flag:
                return where(g > h.tau, g, 0.0), {}
            return (g if h.tau else -g), {}

    assert len(trace(Branches()).phases) == 1
    with pytest.raises(TypeError, match=r"a rule may not branch on the number h\.tau"):
        trace(Branches(flag=False))


def test_a_total_alone_reads_and_writes_nothing() -> None:
    program = trace_total("sum of squares", square)
    assert program.arrays == ("g",)
    assert program.bytes_per_element({"g": 4}) == 4
    assert program.phases[0].stores == ()
