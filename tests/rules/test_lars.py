"""LARS, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import LARS

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def step(optimizer: Optimizer, weights: torch.Tensor, gradient: list[float]) -> list[float]:
    weights.grad = torch.tensor(gradient, dtype=weights.dtype)
    optimizer.step()
    return weights.tolist()


def test_two_steps_of_one_number(walk: Walk) -> None:
    # l₁ = 0.1·4/(2 + 0.5·4) = 0.1, v₁ = 0.1·(2 + 2) = 0.4; l₂ = 0.1·3.6/(3 + 1.8) = 0.075, v₂ = 0.36 + 0.075·(−3 + 1.8)
    rule = LARS(lr=1.0, weight_decay=0.5, trust_coefficient=0.1, eps=0.0)
    assert walk(rule, 4.0, [2.0, -3.0]) == [
        approx({"weight": 3.6, "momentum_buffer": 0.4}),
        approx({"weight": 3.33, "momentum_buffer": 0.27}),
    ]


def test_nesterov_looks_ahead(walk: Walk) -> None:
    # The first step is v₁ + 0.9·v₁ with v₁ = 0.4
    rule = LARS(lr=1.0, weight_decay=0.5, trust_coefficient=0.1, eps=0.0, nesterov=True)
    assert walk(rule, 4.0, [2.0]) == [approx({"weight": 4 - 0.76, "momentum_buffer": 0.4})]


@ENGINES
def test_the_first_step_of_a_tensor(engine: str) -> None:
    # ‖θ‖ = 5, ‖g‖ = 13, λ = 2: l = 0.1·5/(13 + 10 + 2) = 0.02, the step is 0.5·0.02·(g + 2θ)
    weights = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], LARS(lr=0.5, weight_decay=2.0, trust_coefficient=0.1, eps=2.0), engine=engine)
    assert step(optimizer, weights, [5.0, 12.0]) == approx([3 - 0.01 * (5 + 6), -4 - 0.01 * (12 - 8)], rel=1e-12)


@ENGINES
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_tensor_moves_by_a_share_of_its_norm(engine: str, scale: float) -> None:
    # Without decay and momentum ‖Δθ‖ = η·ψ·‖θ‖, whatever the gradient.
    weights = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    rule = LARS(lr=2.0, momentum=0.0, trust_coefficient=0.01, eps=0.0)
    after = step(Optimizer([weights], rule, engine=engine), weights, [5 * scale, 12 * scale])
    assert math.hypot(after[0] - 3, after[1] + 4) == approx(0.1, rel=1e-12)


@ENGINES
def test_a_new_rate_changes_the_steps_to_come_only(engine: str) -> None:
    # With l = 1 (weights of 0): v₁ = 0.1·1; at a rate of 0 the momentum goes on: v₂ = 0.5·v₁.
    weights = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], LARS(lr=0.1, momentum=0.5), engine=engine)
    assert step(optimizer, weights, [1.0]) == approx([-0.1])
    optimizer.param_groups[0]["lr"] = 0.0
    assert step(optimizer, weights, [1.0]) == approx([-0.15])


@ENGINES
def test_where_a_norm_is_zero(engine: str) -> None:
    nothing = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([nothing], LARS(lr=0.1, eps=0.0), engine=engine)
    assert step(optimizer, nothing, [5.0, -0.2]) == approx([-0.5, 0.02])
    weights = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], LARS(lr=0.1, eps=0.0), engine=engine)
    assert step(optimizer, weights, [0.0, 0.0]) == [3.0, 4.0]
    # By the paper's formula the local rate of a gradient of 0 is ψ/λ: a step of 0.1·0.001/0.5·0.5·θ
    optimizer = Optimizer([weights], LARS(lr=0.1, eps=0.0, weight_decay=0.5), engine=engine)
    assert step(optimizer, weights, [0.0, 0.0]) == approx([3 * (1 - 1e-4), 4 * (1 - 1e-4)], rel=1e-12)
