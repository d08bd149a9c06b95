"""Wrappers: what each does to a rule, worked out by hand, and that it stays a rule like any other."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rules.walking import Walk
from stepwell import Optimizer, Rule, agc, cautious, clip_value, ema, grokfast, lookahead, schedule_free
from stepwell.rules import LARS, SGD, Adagrad, AdamW, Lion, Rprop, ScheduleFreeAdamW, ScheduleFreeSGD

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk_tensors(rule: Rule, gradients: list[Tensor], engine: str = "auto", start: float = 1.0) -> list[Tensor]:
    """Where weights of ones are after each gradient."""
    weights = torch.full_like(gradients[0], start).requires_grad_()
    optimizer, path = Optimizer([weights], rule, engine=engine), []
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimizer.step()
        path.append(weights.detach().clone())
    return path


# Cautious.


def test_two_cautious_steps(walk: Walk) -> None:
    # v₁ = 2 agrees with g₁ = 2: θ₁ = 0.8. v₂ = 0.9·2 − 1 = 0.8 does not agree with g₂ = −1: θ₂ = θ₁.
    path = walk(cautious(SGD(lr=0.1, momentum=0.9)), 1.0, [2.0, -1.0])
    assert path == [
        approx({"weight": 0.8, "momentum_buffer": 2.0}),
        approx({"weight": 0.8, "momentum_buffer": 0.8}),
    ]


@ENGINES
def test_what_moves_moves_further_where_others_stay(engine: str) -> None:
    # After (2, 2, 2, 2): v = (0.8, 2.8, 2.8, 2.8) disagrees with g = (−1, 1, 1, 1) in the first of four elements: the
    # others step by 0.1·2.8/0.75.
    gradients = [torch.full((4,), 2.0).double(), torch.tensor([-1.0, 1.0, 1.0, 1.0]).double()]
    first, second = walk_tensors(cautious(SGD(lr=0.1, momentum=0.9)), gradients, engine)
    assert first.tolist() == approx([0.8] * 4)
    assert second.tolist() == approx([0.8] + [0.8 - 0.28 / 0.75] * 3)


@ENGINES
@pytest.mark.parametrize("inner", [AdamW(lr=0.1, weight_decay=0.0), Lion(lr=0.1), SGD(lr=0.1, momentum=0.9)])
def test_no_element_moves_against_its_gradient(engine: str, inner: Rule) -> None:
    gradients = [random(50, seed=seed) for seed in range(6)]
    path = [torch.ones(50, dtype=torch.float64), *walk_tensors(cautious(inner), gradients, engine)]
    moved = 0
    for before, after, gradient in zip(path, path[1:], gradients, strict=False):
        assert bool(((after - before) * gradient <= 0).all())
        moved += int((after != before).sum())
    assert 0 < moved < 6 * 50


@ENGINES
def test_cautious_decay_stays_whole(engine: str) -> None:
    # v₂ disagrees with g₂, so nothing moves but by decay: 0.95 of what it was.
    gradients = [torch.full((1,), 2.0).double(), torch.full((1,), -1.0).double()]
    rule = cautious(SGD(lr=0.1, momentum=0.9, weight_decay=0.5, decay="decoupled"))
    first, second = walk_tensors(rule, gradients, engine)
    assert second.item() == approx(0.95 * first.item())


# Lookahead.


def test_three_steps_of_lookahead(walk: Walk) -> None:
    # k = 2, α = 0.5: 1 → 0.8 → 1.1, φ = 1 + 0.5·0.1 = 1.05 = θ; then 1.05 − 0.1 = 0.95.
    path = walk(lookahead(SGD(lr=0.1), k=2, alpha=0.5), 1.0, [2.0, -3.0, 1.0])
    assert path == [
        approx({"weight": 0.8, "slow_weights": 1.0}),
        approx({"weight": 1.05, "slow_weights": 1.05}),
        approx({"weight": 0.95, "slow_weights": 1.05}),
    ]


@ENGINES
def test_every_k_steps_the_weights_are_the_slow_ones(engine: str) -> None:
    weights = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], lookahead(AdamW(lr=0.1), k=3), engine=engine)
    for step in range(1, 13):
        weights.grad = random(5, seed=step)
        optimizer.step()
        assert torch.equal(weights.detach(), optimizer.state[weights]["slow_weights"]) == (step % 3 == 0)


@ENGINES
def test_lookahead_that_follows_wholly_is_the_rule(engine: str) -> None:
    gradients = [random(5, seed=seed) for seed in range(7)]
    path = walk_tensors(lookahead(AdamW(lr=0.1), k=3, alpha=1.0), gradients, engine)
    for ours, expected in zip(path, walk_tensors(AdamW(lr=0.1), gradients, engine), strict=True):
        torch.testing.assert_close(ours, expected)


# EMA.


def test_two_steps_of_ema(walk: Walk) -> None:
    # δ₁ = min(0.2, 2/11), δ₂ = min(0.2, 3/12) = 0.2. θ: 1 → 0.8 → 1.1.
    first = 2 / 11 * 1 + 9 / 11 * 0.8
    assert walk(ema(SGD(lr=0.1), decay=0.2), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.8, "ema": first}),
        approx({"weight": 1.1, "ema": 0.2 * first + 0.8 * 1.1}),
    ]


def trained_with_ema(engine: str = "auto") -> tuple[Tensor, Optimizer]:
    weights = torch.ones(7, requires_grad=True)
    optimizer = Optimizer([weights], ema(AdamW(lr=0.1), decay=0.9), engine=engine)
    for step in range(5):
        weights.grad = random(7, seed=step).float()
        optimizer.step()
    return weights, optimizer


@ENGINES
def test_weights_and_average_change_places_to_the_bit(engine: str) -> None:
    weights, optimizer = trained_with_ema(engine)
    trained, average = weights.detach().clone(), optimizer.state[weights]["ema"].clone()
    assert not torch.equal(trained, average)
    for _ in range(2):
        with optimizer.averaged():
            assert torch.equal(weights.detach(), average)
        assert torch.equal(weights.detach(), trained)
        assert torch.equal(optimizer.state[weights]["ema"], average)
    optimizer.eval()
    optimizer.eval()
    assert torch.equal(weights.detach(), average)
    with pytest.raises(RuntimeError, match=r"^the parameters hold the averaged weights; call optimizer.train\(\)"):
        optimizer.step()
    optimizer.train()
    assert torch.equal(weights.detach(), trained)
    assert torch.equal(optimizer.state[weights]["ema"], average)


def test_the_average_is_put_back_after_an_exception() -> None:
    weights, optimizer = trained_with_ema()
    trained, average = weights.detach().clone(), optimizer.state[weights]["ema"].clone()
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        raise ZeroDivisionError
    assert torch.equal(weights.detach(), trained)
    assert torch.equal(optimizer.state[weights]["ema"], average)


@pytest.mark.parametrize("saved_in", ["training", "averaged"])
@pytest.mark.parametrize("same", [True, False], ids=["its weights", "the others"])
def test_a_state_dict_finds_out_which_weights_it_meets(saved_in: str, same: bool) -> None:
    # Weights and average change places, so that a state with the weights of the other mode has one of them twice.
    weights, optimizer = trained_with_ema()
    trained, average = weights.detach().clone(), optimizer.state[weights]["ema"].clone()
    if saved_in == "averaged":
        optimizer.eval()
    state = copy.deepcopy(optimizer.state_dict())
    other = "averaged" if saved_in == "training" else "training"
    fresh = (trained if (saved_in if same else other) == "training" else average).clone().requires_grad_()
    resumed = Optimizer([fresh], ema(AdamW()))
    resumed.load_state_dict(state)
    if not same:
        with pytest.raises(ValueError, match=rf"^the model's weights are the {other} ones, but this"):
            resumed.train()
        return
    resumed.train()
    assert torch.equal(fresh.detach(), trained)
    assert torch.equal(resumed.state[fresh]["ema"], average)


# Grokfast.


def test_two_steps_of_grokfast(walk: Walk) -> None:
    # α = 0.5, λ = 2: μ₁ = 1, g = 2 + 2·1 = 4, θ₁ = 0.6; μ₂ = 0.5·1 + 0.5·(−3) = −1, g = −3 − 2 = −5, θ₂ = 1.1.
    assert walk(grokfast(SGD(lr=0.1), alpha=0.5, lamb=2.0), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.6, "slow_gradient": 1.0}),
        approx({"weight": 1.1, "slow_gradient": -1.0}),
    ]


@ENGINES
def test_what_does_not_change_is_amplified_and_what_alternates_is_not(engine: str) -> None:
    rule = grokfast(SGD(lr=1.0), alpha=0.9, lamb=4.0)
    gradients = [torch.tensor([1.0, (-1.0) ** step], dtype=torch.float64) for step in range(101)]
    path = walk_tensors(rule, gradients, engine)
    steady, alternating = (path[-2] - path[-1]).tolist()
    assert steady == approx(5.0, rel=1e-3)
    assert abs(alternating) < 1.3


# Clipping.


def test_two_steps_clipped_by_value(walk: Walk) -> None:
    assert walk(clip_value(SGD(lr=0.1)), 1.0, [3.0, -0.5]) == [approx({"weight": 0.9}), approx({"weight": 0.95})]


@ENGINES
def test_gradients_clipped_by_value_are_those_of_torch(engine: str) -> None:
    gradients = [random(3, 5, seed=seed) for seed in range(6)]
    clipped = [gradient.clone().requires_grad_() for gradient in gradients]
    for each_gradient in clipped:
        each_gradient.grad = each_gradient.detach().clone()
        torch.nn.utils.clip_grad_value_([each_gradient], 0.3)
    ours = walk_tensors(clip_value(AdamW(lr=0.1), limit=0.3), gradients, engine)
    plain = walk_tensors(AdamW(lr=0.1), [each_gradient.grad for each_gradient in clipped], engine)
    torch.testing.assert_close(ours, plain)


@ENGINES
def test_a_tensors_gradient_is_clipped_to_a_share_of_its_weights(engine: str) -> None:
    # Four ones have norm 2, half of which is 1: (3, 4, 0, 0), of norm 5, becomes (0.6, 0.8, 0, 0). Then the weights
    # (0.4, 0.2, 1, 1) have a norm of √2.2, half of which is more than 0.5: the second gradient stays.
    gradients = [torch.tensor([3.0, 4.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.0])]
    path = walk_tensors(agc(SGD(lr=1.0), ratio=0.5), gradients, engine)
    torch.testing.assert_close(path[0], torch.tensor([0.4, 0.2, 1.0, 1.0]))
    torch.testing.assert_close(path[1], torch.tensor([0.4, 0.2, 0.5, 1.0]))


@ENGINES
def test_weights_of_zero_can_move_under_adaptive_clipping(engine: str) -> None:
    (weights,) = walk_tensors(agc(SGD(lr=1.0), ratio=0.5, eps=0.1), [torch.tensor([3.0, 4.0])], engine, start=0.0)
    torch.testing.assert_close(weights, torch.tensor([-0.03, -0.04]))  # 0.5·0.1 along (0.6, 0.8)


# Schedule-Free around a rule.


@pytest.mark.parametrize(
    ("inner", "whole"),
    [
        (SGD(lr=0.3, weight_decay=0.1), ScheduleFreeSGD(lr=0.3, momentum=0.8, weight_decay=0.1, warmup_steps=3)),
        (
            AdamW(lr=0.1, betas=(0.0, 0.9), weight_decay=0.1),
            ScheduleFreeAdamW(lr=0.1, betas=(0.8, 0.9), weight_decay=0.1, warmup_steps=3),
        ),
    ],
    ids=["sgd", "adamw"],
)
@ENGINES
def test_around_a_rule_without_momentum_it_is_the_papers(engine: str, inner: Rule, whole: Rule) -> None:
    gradients = [random(5, seed=seed) for seed in range(8)]
    path = walk_tensors(schedule_free(inner, interpolation=0.8, warmup_steps=3), gradients, engine)
    for ours, expected in zip(path, walk_tensors(whole, gradients, engine), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_two_steps_of_schedule_free(walk: Walk) -> None:
    # As for ScheduleFreeSGD: β = 0.5: z₁ = 0.8 = y₁; z₂ = 1.1, x₂ = 0.95, y₂ = 1.025.
    path = walk(schedule_free(SGD(lr=0.1), interpolation=0.5), 1.0, [2.0, -3.0])
    assert [after["weight"] for after in path] == approx([0.8, 1.025])
    assert [after["z"] for after in path] == approx([0.8, 1.1])


@ENGINES
def test_the_average_around_lion_is_the_average_of_its_fast_weights(engine: str) -> None:
    weights = torch.ones(6, dtype=torch.float64, requires_grad=True)
    optimizer, fast = Optimizer([weights], schedule_free(Lion(lr=0.1)), engine=engine), []
    for step in range(6):
        weights.grad = random(6, seed=step)
        optimizer.step()
        fast.append(optimizer.state[weights]["z"].clone())
        with optimizer.averaged():
            torch.testing.assert_close(weights.detach(), torch.stack(fast).mean(0))


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        # ‖θ‖/‖g‖·g is 1 in each of four equal elements, so the first step is η; then θ = 1 − η.
        (LARS(lr=0.1, momentum=0.0, trust_coefficient=1.0), [0.1, 0.09]),
        (Rprop(lr=0.01), [0.01, 0.012]),  # which agree, so that the second is 1.2 times the first
        (Adagrad(lr=0.1, lr_decay=9.0), [0.1, 0.1 / 10 / 2**0.5]),
    ],
)
def test_schedule_free_steps_are_the_rules_own(rule: Rule, steps: list[float]) -> None:
    # With β near 0 the weights are z.
    path = walk_tensors(schedule_free(rule, interpolation=1e-9), [torch.full((4,), 0.5, dtype=torch.float64)] * 2)
    z = [1.0, *(float(weights[0]) for weights in path)]
    assert [before - after for before, after in pairwise(z)] == approx(steps, rel=1e-6)
