"""NAdam, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adam, NAdam

approx = pytest.approx


def test_two_steps_without_a_schedule(walk: Walk) -> None:
    # ψ = 0: μ = 0.9/2 throughout, M₁ = 0.45, M₂ = 0.2025, M₃ = 0.091125. m₁ = 0.2, v̂₁ = 4; m₂ = 0.08, v₂ = 0.0496.
    step1 = (2 + 0.45 / (1 - 0.2025) * 0.2) / (2 + 0.1)
    step2 = (-0.55 / (1 - 0.2025) + 0.45 / (1 - 0.091125) * 0.08) / (math.sqrt(0.0496 / 0.0199) + 0.1)
    rule = NAdam(lr=0.5, betas=(0.9, 0.99), eps=0.1, momentum_decay=0.0)
    assert walk(rule, 1.0, [2.0, -1.0]) == [
        approx({"weight": 1 - 0.5 * step1, "exp_avg": 0.2, "exp_avg_sq": 0.04, "mu_product": 0.45}),
        approx({"weight": 1 - 0.5 * step1 - 0.5 * step2, "exp_avg": 0.08, "exp_avg_sq": 0.0496, "mu_product": 0.2025}),
    ]


def test_the_first_step_with_a_schedule(walk: Walk) -> None:
    # ψ = 1: μ₁ = 0.9·(1 − ½·0.96) = 0.468, μ₂ = 0.9·(1 − ½·0.9216) = 0.48528; m₁ = 0.2, v̂₁ = 4
    step = (2 + 0.48528 / (1 - 0.468 * 0.48528) * 0.2) / (2 + 0.1)
    (after,) = walk(NAdam(lr=0.5, betas=(0.9, 0.99), eps=0.1, momentum_decay=1.0), 1.0, [2.0])
    assert after["weight"] == approx(1 - 0.5 * step)


def test_the_momentum_grows_to_beta1(walk: Walk) -> None:
    # ψ = 1: μ₁ = 0.9·(1 − 0.48) = 0.468, μ₂ = 0.9·(1 − ½·0.9216) = 0.48528; in the end μ = β₁
    path = walk(NAdam(betas=(0.9, 0.99), momentum_decay=1.0), 1.0, [1.0] * 400)
    assert [after["mu_product"] for after in path[:2]] == approx([0.468, 0.468 * 0.48528])
    assert path[-1]["mu_product"] / path[-2]["mu_product"] == approx(0.9, rel=1e-6)


def test_it_looks_ahead(walk: Walk) -> None:
    # After a turn of the gradient it has turned already where Adam's mean still points the old way.
    gradients = [1.0, 1.0, 1.0, -1.0]
    *_, before, after = (each["weight"] for each in walk(NAdam(lr=0.1, betas=(0.8, 0.99)), 0.0, gradients))
    assert after > before
    *_, before, after = (each["weight"] for each in walk(Adam(lr=0.1, betas=(0.8, 0.99)), 0.0, gradients))
    assert after < before
