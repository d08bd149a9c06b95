"""Schedule-Free's two sets of weights: averaged to evaluate on, and the way back; and states loaded across the two."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule
from stepwell.rules import SGD, AdamW, Lion, ScheduleFreeAdamW, ScheduleFreeSGD

RULES: dict[str, Rule] = {
    "ScheduleFreeSGD": ScheduleFreeSGD(lr=0.2, warmup_steps=2),
    "ScheduleFreeAdamW": ScheduleFreeAdamW(lr=0.1, betas=(0.8, 0.9), weight_decay=0.1),
}
NAMES = ("a", "b", "c", "d")

each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
each_engine = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (), (0,), (300,))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def made(rule: Rule, parameters: list[Tensor] | None = None, **options: Any) -> Optimizer:
    pairs = list(zip(NAMES, parameters or weights(), strict=True))
    return Optimizer(pairs, rule, **options)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def now(optimizer: Optimizer) -> list[Tensor]:
    return [p.detach().clone() for p in parameters_of(optimizer)]


def go(optimizer: Optimizer, first: int, last: int) -> Optimizer:
    """Steps `first` to `last` of one training: the gradients come from the weights, so that wrong ones show."""
    for step in range(first, last + 1):
        for p in parameters_of(optimizer):
            p.grad = torch.cos(3 * p.detach().float() + step).to(p.dtype)
        optimizer.step()
    return optimizer


def assert_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach().double(), e.detach().double(), rtol=tolerance, atol=tolerance)


def averages(optimizer: Optimizer) -> list[Tensor]:
    """x = (y − (1 − β)·z) / β, from weights to train on."""
    found = []
    for group in optimizer.param_groups:
        beta = group["momentum"] if "momentum" in group else group["betas"][0]
        for p in group["params"]:
            y, z = p.detach().double(), optimizer.state[p]["z"].double()
            found.append((y - (1 - beta) * z) / beta)
    return found


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


# A state loaded into a model: which weights does the model hold?


def saved(rule: Rule, holds: str, steps: int = 3, **options: Any) -> tuple[dict[str, Any], list[Tensor]]:
    """The state dict and the weights of a training after some steps, both in one mode."""
    optimizer = go(made(rule, **options), 1, steps)
    if holds == "averaged":
        optimizer.eval()
    return copy.deepcopy(optimizer.state_dict()), now(optimizer)


def resumed(rule: Rule, state: dict[str, Any], values: list[Tensor], **options: Any) -> Optimizer:
    optimizer = made(rule, [value.clone().requires_grad_() for value in values], **options)
    optimizer.load_state_dict(state)
    return optimizer


def follow(optimizer: Optimizer, rule: Rule) -> None:
    """Assert that two more steps are those of an uninterrupted training, given its gradients."""
    uninterrupted = go(made(rule), 1, 3)
    names = optimizer.param_groups[0]["param_names"]
    for step in (4, 5):
        go(uninterrupted, step, step)
        gradients = dict(zip(NAMES, (p.grad for p in parameters_of(uninterrupted)), strict=True))
        for name, p in zip(names, parameters_of(optimizer), strict=True):
            p.grad = gradients[name]
        optimizer.step()
    expected = dict(zip(NAMES, now(uninterrupted), strict=True))
    assert_near(now(optimizer), [expected[name] for name in names])


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@pytest.mark.parametrize("state_of", ["training", "averaged"])
@each_engine
@each_rule
def test_state_and_weights_of_either_mode(
    rule: Rule, engine: Any, state_of: str, weights_of: str, caplog: pytest.LogCaptureFixture
) -> None:
    state, values = saved(rule, state_of)[0], saved(rule, weights_of)[1]
    with caplog.at_level(logging.WARNING, "stepwell"):
        optimizer = resumed(rule, state, values, engine=engine)
        optimizer.train()
    said = [record.getMessage() for record in caplog.records if record.name == "stepwell"]
    if state_of == weights_of:
        assert said == []
    else:
        assert said == [
            f"the weights loaded are the {weights_of} ones, the state was saved with the {state_of} ones: put right"
        ]
    assert_near(now(optimizer), now(go(made(rule), 1, 3)))
    assert_near(now(go(optimizer, 4, 6)), now(go(made(rule), 1, 6)), 1e-4)


@each_rule
def test_a_mismatch_is_put_right_at_the_first_step(rule: Rule) -> None:
    state, values = saved(rule, "training")[0], saved(rule, "averaged")[1]
    follow(resumed(rule, state, values), rule)


@each_rule
def test_weights_loaded_after_the_state_count(rule: Rule) -> None:
    # The model's checkpoint may be read after the optimizer's.
    state, values = saved(rule, "training")[0], saved(rule, "averaged")[1]
    optimizer = made(rule)
    optimizer.load_state_dict(state)
    with torch.no_grad():
        for p, value in zip(parameters_of(optimizer), values, strict=True):
            p.copy_(value)
    follow(optimizer, rule)


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@each_rule
def test_evaluation_first(rule: Rule, weights_of: str) -> None:
    optimizer = resumed(rule, saved(rule, "training")[0], saved(rule, weights_of)[1])
    expected = averages(go(made(rule), 1, 3))
    with optimizer.averaged():
        assert_near(now(optimizer), expected)
    assert_near(now(optimizer), now(go(made(rule), 1, 3)))


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@each_rule
def test_weights_that_went_through_bfloat16(rule: Rule, weights_of: str) -> None:
    values = [value.bfloat16().float() for value in saved(rule, weights_of)[1]]
    optimizer = resumed(rule, saved(rule, "training")[0], values)
    optimizer.train()
    assert_near(now(optimizer), now(go(made(rule), 1, 3)), 2e-2)


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@each_rule
def test_names_in_another_order(rule: Rule, weights_of: str) -> None:
    state, values = saved(rule, "training")[0], saved(rule, weights_of)[1]
    pairs = [(name, value.clone().requires_grad_()) for name, value in zip(NAMES, values, strict=True)][::-1]
    optimizer = Optimizer(pairs, rule)
    optimizer.load_state_dict(state)
    follow(optimizer, rule)


@each_rule
def test_strangers_are_refused_and_the_optimizer_says_what_to_do(rule: Rule) -> None:
    strangers = [value + 1 for value in saved(rule, "training")[1]]
    optimizer = resumed(rule, saved(rule, "training")[0], strangers)
    message = (
        r"^the model's weights are neither those that this optimizer state was saved with nor their average \(they "
        r"differ by up to \d[\d.]*\); load the weights of the same checkpoint, or, to go on with these, delete "
        r"'fingerprint' from its param_groups$"
    )
    for use in (optimizer.eval, optimizer.train, lambda: go(optimizer, 4, 4), lambda: optimizer.averaged().__enter__()):
        with pytest.raises(ValueError, match=message):
            use()
    assert_bits(now(optimizer), strangers)
    assert {optimizer.state[p]["step"] for p in parameters_of(optimizer)} == {3}


@each_rule
def test_strangers_may_be_kept_on_demand(rule: Rule) -> None:
    state, values = saved(rule, "training")
    for group in state["param_groups"]:
        del group["fingerprint"]
    optimizer = resumed(rule, state, [value + 1 for value in values])
    go(optimizer, 4, 4)
    assert optimizer.state[parameters_of(optimizer)[0]]["step"] == 4


@each_rule
def test_strangers_are_refused_until_the_right_weights_come(rule: Rule) -> None:
    state, values = saved(rule, "training")
    optimizer = resumed(rule, state, [value + 1 for value in values])
    with pytest.raises(ValueError, match="neither those that this optimizer state was saved with"):
        optimizer.step()
    with torch.no_grad():
        for p, value in zip(parameters_of(optimizer), values, strict=True):
            p.copy_(value)
    assert_bits(now(go(optimizer, 4, 5)), now(go(made(rule), 1, 5)))


@each_rule
def test_a_state_before_the_first_step_fits_any_weights(rule: Rule) -> None:
    state = made(rule).state_dict()
    values = [value.detach() + 1 for value in weights()]
    optimizer = resumed(rule, state, values)
    expected = made(rule, [value.clone().requires_grad_() for value in values])
    assert_bits(now(go(optimizer, 1, 2)), now(go(expected, 1, 2)))


@each_rule
def test_a_state_in_which_few_parameters_had_gradients(rule: Rule) -> None:
    optimizer = made(rule)
    p = parameters_of(optimizer)[3]
    for step in (1, 2, 3):
        p.grad = torch.cos(3 * p.detach() + step)
        optimizer.step()
    state, expected = copy.deepcopy(optimizer.state_dict()), now(optimizer)
    optimizer.eval()
    loaded = resumed(rule, state, now(optimizer))
    loaded.train()
    assert_near(now(loaded), expected)
