"""LAMB, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import LAMB

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def step(optimizer: Optimizer, weights: torch.Tensor, gradient: list[float]) -> list[float]:
    weights.grad = torch.tensor(gradient, dtype=weights.dtype)
    optimizer.step()
    return weights.tolist()


def test_two_steps_of_one_number(walk: Walk) -> None:
    # ‖θ‖/‖r‖·r = |θ|·sign(r) for a single number: each step takes a tenth of it, up or down.
    # r₂ has the sign of m₂ = 0.9·0.2 + 0.1·(−3) = −0.12.
    assert walk(LAMB(lr=0.1, betas=(0.9, 0.99)), 4.0, [2.0, -3.0]) == [
        approx({"weight": 3.6, "exp_avg": 0.2, "exp_avg_sq": 0.04}),
        approx({"weight": 3.96, "exp_avg": -0.12, "exp_avg_sq": 0.99 * 0.04 + 0.01 * 9}),
    ]


@ENGINES
def test_two_steps_of_one_tensor(engine: str) -> None:
    beta1, beta2, eps, decay, lr = 0.9, 0.99, 0.1, 0.05, 0.2
    theta, m, v = [3.0, -4.0], [0.0, 0.0], [0.0, 0.0]
    weights = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    rule = LAMB(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    optimizer = Optimizer([weights], rule, engine=engine)
    for t, g in enumerate([[1.0, 2.0], [-3.0, 0.5]], start=1):
        m = [beta1 * m[i] + (1 - beta1) * g[i] for i in (0, 1)]
        v = [beta2 * v[i] + (1 - beta2) * g[i] ** 2 for i in (0, 1)]
        r = [(m[i] / (1 - beta1**t)) / (math.sqrt(v[i] / (1 - beta2**t)) + eps) + decay * theta[i] for i in (0, 1)]
        trust = math.hypot(*theta) / math.hypot(*r)
        theta = [theta[i] - lr * trust * r[i] for i in (0, 1)]
        assert step(optimizer, weights, g) == approx(theta, rel=1e-12)
        assert optimizer.state[weights]["exp_avg"].tolist() == approx(m, rel=1e-12)
        assert optimizer.state[weights]["exp_avg_sq"].tolist() == approx(v, rel=1e-12)


@ENGINES
def test_the_first_step_by_hand(engine: str) -> None:
    # Without ε, decay and history r = sign(g), so ‖r‖ = 2 over four weights of norm √(9 + 16 + 0 + 144) = 13.
    weights = torch.tensor([3.0, -4.0, 0.0, 12.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], LAMB(lr=0.1, eps=0.0), engine=engine)
    after = step(optimizer, weights, [0.5, -7.0, 100.0, -0.001])
    assert after == approx([3 - 0.65, -4 + 0.65, -0.65, 12 + 0.65], rel=1e-12)


@ENGINES
def test_a_tensor_moves_by_a_share_of_its_norm(engine: str) -> None:
    # ‖θₜ − θₜ₋₁‖ = lr·‖θₜ₋₁‖ for each tensor by itself, whatever the gradient and the decay.
    generator = torch.Generator().manual_seed(0)
    layers = [scale * torch.randn(7, 5, generator=generator, dtype=torch.float64) for scale in (0.01, 1.0, 100.0)]
    layers = [layer.requires_grad_() for layer in layers]
    optimizer = Optimizer(layers, LAMB(lr=0.03, weight_decay=0.1), engine=engine)
    for _ in range(3):
        before = [layer.detach().clone() for layer in layers]
        for layer in layers:
            layer.grad = torch.randn(7, 5, generator=generator, dtype=torch.float64)
        optimizer.step()
        for layer, old in zip(layers, before, strict=True):
            assert float((layer.detach() - old).norm()) == approx(0.03 * float(old.norm()), rel=1e-12)


@ENGINES
def test_the_trust_ratio_is_one_for_weights_of_norm_zero(engine: str) -> None:
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], LAMB(lr=0.1, eps=0.0), engine=engine)
    assert step(optimizer, weights, [5.0, -0.2]) == approx([-0.1, 0.1])


@ENGINES
def test_the_trust_ratio_is_one_for_a_step_of_norm_zero(engine: str) -> None:
    weights = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], LAMB(lr=0.1), engine=engine)
    assert step(optimizer, weights, [0.0, 0.0]) == [3.0, 4.0]
