"""Schedule-Free's two sets of weights: averaged to evaluate on, and the way back to those to train on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from averaged_training import (
    RULES,
    assert_bits,
    assert_near,
    averages,
    each_engine,
    each_rule,
    go,
    made,
    now,
    parameters_of,
    weights,
)

from stepwell import Optimizer, Rule, ema
from stepwell.rules import SGD, AdamW, Lion, ScheduleFreeSGD

# In the context


@each_engine
@each_rule
def test_averaged_gives_the_average_and_the_very_bits_back(rule: Rule, engine: Any) -> None:
    optimizer = go(made(rule, engine=engine), 1, 4)
    before, expected = now(optimizer), averages(optimizer)
    with optimizer.averaged():
        assert_near(now(optimizer), expected)
        assert not torch.equal(parameters_of(optimizer)[3], before[3])
    assert_bits(now(optimizer), before)


@each_rule
def test_the_average_of_two_steps_by_hand(rule: Rule) -> None:
    # Equal weights: x is the mean of z₁ and z₂ (and z₀ = x₀ has no share).
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    flat = type(rule)(lr=0.25)
    optimizer = Optimizer([p], flat, engine="reference")
    fast = []
    for gradient in ([1.0, -2.0], [0.5, 4.0]):
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        fast.append(optimizer.state[p]["z"].clone())
    with optimizer.averaged():
        torch.testing.assert_close(p.detach(), (fast[0] + fast[1]) / 2, rtol=1e-12, atol=1e-12)
    if isinstance(rule, ScheduleFreeSGD):  # z falls by lr·g
        assert [z.tolist() for z in fast] == [[0.75, 2.5], [0.625, 1.5]]


@each_rule
def test_training_weights_come_back_when_the_body_raises(rule: Rule) -> None:
    optimizer = go(made(rule), 1, 3)
    before = now(optimizer)
    with pytest.raises(KeyError, match="evaluation"), optimizer.averaged():
        raise KeyError("evaluation")
    assert_bits(now(optimizer), before)
    go(optimizer, 4, 4)
    assert_bits(now(optimizer), now(go(made(rule), 1, 4)))


@each_rule
def test_contexts_may_be_nested(rule: Rule) -> None:
    optimizer = go(made(rule), 1, 3)
    before = now(optimizer)
    with optimizer.averaged():
        outer = now(optimizer)
        with optimizer.averaged():
            assert_bits(now(optimizer), outer)
        assert_bits(now(optimizer), outer)
    assert_bits(now(optimizer), before)


@each_rule
def test_the_context_is_left_in_training_whatever_the_body_does(rule: Rule) -> None:
    optimizer = go(made(rule), 1, 3)
    before = now(optimizer)
    with optimizer.averaged():
        optimizer.train()
    assert_bits(now(optimizer), before)
    assert optimizer.param_groups[0]["holds"] == "training"


@each_rule
def test_in_evaluation_the_context_changes_nothing(rule: Rule) -> None:
    optimizer = go(made(rule), 1, 3)
    optimizer.eval()
    before = now(optimizer)
    with optimizer.averaged():
        assert_bits(now(optimizer), before)
    assert_bits(now(optimizer), before)
    assert optimizer.param_groups[0]["holds"] == "averaged"


# train() and eval()


@each_engine
@each_rule
def test_train_and_eval_are_idempotent(rule: Rule, engine: Any) -> None:
    optimizer = go(made(rule, engine=engine), 1, 4)
    before, expected = now(optimizer), averages(optimizer)
    optimizer.train()
    assert_bits(now(optimizer), before)
    optimizer.eval()
    once = now(optimizer)
    assert_near(once, expected)
    optimizer.eval()
    assert_bits(now(optimizer), once)
    optimizer.train()
    back = now(optimizer)
    assert_near(back, before)
    optimizer.train()
    assert_bits(now(optimizer), back)


@each_rule
def test_a_step_on_averaged_weights_is_refused_with_the_way_out(rule: Rule) -> None:
    optimizer = go(made(rule), 1, 3)
    optimizer.eval()
    before = now(optimizer)
    for refused in (lambda: go(optimizer, 4, 4), optimizer.step):
        with pytest.raises(
            RuntimeError,
            match=r"^the parameters hold the averaged weights; call optimizer.train\(\) before step\(\)$",
        ):
            refused()
    assert_bits(now(optimizer), before)
    with optimizer.averaged(), pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before step\(\)$"):
        optimizer.step()
    optimizer.train()
    assert_near(now(go(optimizer, 4, 5)), now(go(made(rule), 1, 5)))


@each_rule
def test_before_the_first_step_the_average_is_where_training_begins(rule: Rule) -> None:
    optimizer = made(rule)
    before = now(optimizer)
    with optimizer.averaged():
        assert_bits(now(optimizer), before)
    optimizer.eval()
    assert_bits(now(optimizer), before)
    optimizer.train()
    assert_bits(now(go(optimizer, 1, 3)), now(go(made(rule), 1, 3)))


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), AdamW(), Lion()], ids=lambda rule: type(rule).__name__)
def test_nothing_happens_to_other_rules(rule: Rule) -> None:
    optimizer = go(made(rule), 1, 2)
    before = now(optimizer)
    with optimizer.averaged():
        assert_bits(now(optimizer), before)
        go(optimizer, 3, 3)
    optimizer.eval()
    go(optimizer, 4, 4)
    optimizer.train()
    assert_bits(now(optimizer), now(go(made(rule), 1, 4)))
    assert "holds" not in optimizer.param_groups[0]
    assert "fingerprint" not in optimizer.state_dict()["param_groups"][0]


def test_only_the_groups_with_an_average_change() -> None:
    ours, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = Optimizer([{"params": [ours]}, {"params": [other], "rule": AdamW(lr=0.1)}], RULES["ScheduleFreeSGD"])
    go(optimizer, 1, 3)
    before = now(optimizer)
    with optimizer.averaged():
        assert not torch.equal(ours, before[0])
        assert torch.equal(other, before[1])


@each_rule
def test_parameters_without_a_gradient_keep_their_weights(rule: Rule) -> None:
    parameters = weights()
    optimizer = made(rule, parameters)
    for step in (1, 2):
        parameters[0].grad = torch.full_like(parameters[0], float(step))
        optimizer.step()
    before = now(optimizer)
    with optimizer.averaged():
        assert not torch.equal(parameters[0], before[0])
        assert_bits(now(optimizer)[1:], before[1:])
    assert_bits(now(optimizer), before)


@pytest.mark.parametrize("master", [None, "stochastic"])
def test_an_average_in_more_bits_than_the_weights_is_not_rounded(master: Any) -> None:
    found = []
    for looks in (False, True):
        weight = torch.nn.Parameter(torch.ones(64).bfloat16())
        rule = ema(SGD(lr=1e-2), decay=0.999)
        optimizer = Optimizer([weight], rule, state_dtype="float32", master=master)
        for _ in range(20):
            weight.grad = torch.full_like(weight, -1.0)
            optimizer.step()
            if looks:
                with optimizer.averaged():
                    assert weight[0] > 1
        found.append(optimizer.state[weight]["ema"])
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)
