"""Yogi, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adam, Yogi

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # β = (0.5, 0.75), v₀ = 1 < 4: v₁ = 1 + 0.25·4 = 2, v̂₁ = 8, m̂₁ = 2; 2 > 1: v₂ = 2 − 0.25 = 1.75, v̂₂ = 4, m̂₂ = 4/3
    after1 = 1 - 0.1 * 2 / math.sqrt(8)
    rule = Yogi(lr=0.1, betas=(0.5, 0.75), eps=0.0, initial_accumulator_value=1.0)
    assert walk(rule, 1.0, [2.0, 1.0]) == [
        approx({"weight": after1, "exp_avg": 1.0, "exp_avg_sq": 2.0}),
        approx({"weight": after1 - 0.1 * (4 / 3) / 2, "exp_avg": 1.0, "exp_avg_sq": 1.75}),
    ]


def test_small_gradients_after_a_large_one_hardly_raise_the_rate(walk: Walk) -> None:
    # v falls by (1 − β₂)·g² a step, where Adam's loses a share of all that is in it.
    gradients = [10.0] + [0.1] * 50
    yogi = [after["exp_avg_sq"] for after in walk(Yogi(betas=(0.9, 0.9)), 0.0, gradients)]
    adam = [after["exp_avg_sq"] for after in walk(Adam(betas=(0.9, 0.9)), 0.0, gradients)]
    assert yogi[-1] == approx(yogi[0] - 50 * 0.1 * 0.01)
    assert yogi[-1] > 0.99 * yogi[0]
    assert adam[-1] < 0.01 * adam[0]


def test_defaults_are_the_papers() -> None:
    assert (Yogi().lr, Yogi().eps, Yogi().initial_accumulator_value) == (1e-2, 1e-3, 1e-6)
