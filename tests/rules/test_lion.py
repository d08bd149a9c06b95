"""Lion, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import Lion

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # c₁ = 0.1·2 > 0, m₁ = 0.01·2 = 0.02; c₂ = 0.9·0.02 + 0.1·(−0.1) = 0.008 > 0 although g₂ < 0;
    # m₂ = 0.99·0.02 + 0.01·(−0.1) = 0.0188
    assert walk(Lion(lr=0.1), 1.0, [2.0, -0.1]) == [
        approx({"weight": 0.9, "exp_avg": 0.02}),
        approx({"weight": 0.8, "exp_avg": 0.0188}),
    ]


def test_two_steps_with_decay(walk: Walk) -> None:
    # lr·λ = 0.05: θ₁ = 0.95·1 − 0.1 = 0.85; c₂ = 0.9·0.02 − 0.1·1 < 0: θ₂ = 0.95·0.85 + 0.1 = 0.9075
    assert walk(Lion(lr=0.1, weight_decay=0.5), 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.85, "exp_avg": 0.02}),
        approx({"weight": 0.9075, "exp_avg": 0.0098}),
    ]


def test_the_two_betas_do_not_take_each_others_place(walk: Walk) -> None:
    # β₁ = 0 steps along the gradient alone, β₂ = 0.5 halves the memory.
    assert walk(Lion(lr=1.0, betas=(0.0, 0.5)), 0.0, [8.0, -1.0]) == [
        approx({"weight": -1.0, "exp_avg": 4.0}),
        approx({"weight": 0.0, "exp_avg": 1.5}),
    ]


def test_no_gradient_and_no_momentum_is_no_step(walk: Walk) -> None:
    assert walk(Lion(lr=0.1), 1.0, [0.0]) == [approx({"weight": 1.0, "exp_avg": 0.0})]


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_every_weight_moves_by_the_learning_rate(engine: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1000, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = Optimizer([weights], Lion(lr=0.01), engine=engine)
    for _ in range(3):
        before = weights.detach().clone()
        weights.grad = scale * torch.randn(1000, generator=generator, dtype=torch.float64)
        optimizer.step()
        moved = (weights.detach() - before).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-12, atol=0)
