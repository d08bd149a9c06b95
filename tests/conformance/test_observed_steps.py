"""What every rule's step tells of itself is what can be seen from outside, and asking changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conformance.cases import CASES, Case, assert_near, assert_same_bits, rows_and_engines
from conformance.training import copies, give_gradients, parameters_of, slots_of, trained, weights
from stepwell import Optimizer


def rms(tensors: list[Tensor]) -> float:
    numbers = torch.cat([torch.view_as_real(t).reshape(-1) if t.is_complex() else t.reshape(-1) for t in tensors])
    return float(numbers.double().square().mean().sqrt())


@rows_and_engines(CASES, fused_variants=False)
def test_the_readings_are_what_the_weights_do(case: Case, engine: str) -> None:
    parameters = weights(case)
    optimizer = Optimizer(
        [{"params": parameters[:3], "name": "first"}, {"params": parameters[3:]}], case.rule, engine=engine
    )
    optimizer.observe()
    for step in (1, 2):
        give_gradients(parameters, step)
        before = copies(parameters)
        optimizer.step()
        found = optimizer.telemetry()
        assert list(found) == ["first", "1"]
        for name, members in (("first", slice(0, 3)), ("1", slice(3, None))):
            moved = [p.detach() - b for p, b in zip(parameters[members], before[members], strict=True)]
            gradients = [p.grad for p in parameters[members] if p.grad is not None]
            seen = {"update_rms": rms(moved), "weight_rms": rms(before[members]), "gradient_rms": rms(gradients)}
            # The reference's update is known before it is rounded into the weights, to half a unit of 2⁻²⁴ each.
            assert {key: found[name][key] for key in seen} == pytest.approx(seen, rel=1e-5, abs=1e-7)
            assert found[name]["update_to_weight"] == pytest.approx(
                seen["update_rms"] / seen["weight_rms"], rel=1e-5, abs=1e-7
            )


@rows_and_engines(CASES, reference=False, fused_variants=False)
def test_to_be_observed_changes_nothing(case: Case, engine: str) -> None:
    parameters = weights(case)
    observed, plain = Optimizer(parameters, case.rule, engine=engine), trained(case, engine)
    observed.observe()
    for step in range(1, 5):
        give_gradients(parameters, step)
        observed.step()
    # A rule that adds up itself may do so in another order beside other sums.
    near = (
        assert_same_bits
        if case.rule.acts_on != "tensors"
        else lambda a, e: assert_near(a, e, case.tolerance(torch.float32))
    )
    near(parameters_of(observed), parameters_of(plain))
    near(slots_of(observed), slots_of(plain))


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_the_gradient_is_the_one_that_the_rule_gets(engine: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    optimizer = Optimizer([("w", weight)], CASES[0].rule, engine=engine, clip_norm=1.0)
    optimizer.observe()
    weight.grad = torch.full((4,), 5.0)  # of norm 10: a tenth of it is left, each 0.5
    optimizer.step()
    assert optimizer.telemetry(by="parameter")["w"]["gradient_rms"] == pytest.approx(0.5, rel=1e-6)
    assert optimizer.telemetry(by="parameter")["w"]["weight_rms"] == pytest.approx(math.sqrt(30 / 4))
