"""MARS, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import MARS, AdamW

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def test_two_steps_of_one_number(walk: Walk) -> None:
    # β = (0.5, 0.75), γ = 0.5: c₁ = g₁ = 0.5, m̂₁ = 0.5, v̂₁ = 0.25. c₂ = 0.2 + 0.5·1·(0.2 − 0.5) = 0.05:
    # m₂ = 0.125 + 0.025 = 0.15, m̂₂ = 0.2, v₂ = 0.75·0.0625 + 0.25·0.0025 = 0.0475
    after2 = 0.9 - 0.1 * 0.2 / math.sqrt(0.0475 / 0.4375)
    assert walk(MARS(lr=0.1, betas=(0.5, 0.75), eps=0.0, gamma=0.5), 1.0, [0.5, 0.2]) == [
        approx({"weight": 0.9, "exp_avg": 0.25, "exp_avg_sq": 0.0625, "last_grad": 0.5}),
        approx({"weight": after2, "exp_avg": 0.15, "exp_avg_sq": 0.0475, "last_grad": 0.2}),
    ]


@ENGINES
def test_a_corrected_gradient_is_cut_to_a_norm_of_one(engine: str) -> None:
    # c₁ = (3, 4) has the norm 5; the gradient is kept as it came.
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], MARS(lr=0.1, betas=(0.5, 0.75), gamma=0.5), engine=engine)
    weights.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[weights]
    assert state["exp_avg"].tolist() == approx([0.3, 0.4], rel=1e-12)
    assert state["last_grad"].tolist() == [3.0, 4.0]
    weights.grad = torch.tensor([2.0, 4.0], dtype=torch.float64)
    optimizer.step()  # c₂ = (2 − 0.5, 4 − 0) = (1.5, 4), of norm √18.25
    norm = math.sqrt(18.25)
    assert state["exp_avg"].tolist() == approx([0.15 + 0.75 / norm, 0.2 + 2 / norm], rel=1e-12)


def test_without_correction_it_is_adamw(walk: Walk) -> None:
    gradients = [0.5, -0.25, 0.125, 1.0]
    mars = walk(MARS(lr=0.1, betas=(0.9, 0.99), gamma=0.0, weight_decay=0.1), 1.0, gradients)
    adamw = walk(AdamW(lr=0.1, betas=(0.9, 0.99), weight_decay=0.1), 1.0, gradients)
    assert [after["weight"] for after in mars] == approx([after["weight"] for after in adamw])


def test_a_steady_gradient_needs_no_correction(walk: Walk) -> None:
    path = walk(MARS(lr=0.1, eps=0.0, gamma=1.0), 1.0, [0.5] * 4)
    assert [after["weight"] for after in path] == approx([0.9, 0.8, 0.7, 0.6])
