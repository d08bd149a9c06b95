"""AdaBelief, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import AdaBelief

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # β = (0.5, 0.75): m₁ = 1, s₁ = 0.25·(2 − 1)², ŝ₁ = 1, m̂₁ = 2; m₂ = 1 = g₂, s₂ = 0.1875, ŝ₂ = 3/7, m̂₂ = 4/3
    after2 = 0.8 - 0.1 * (4 / 3) / math.sqrt(3 / 7)
    assert walk(AdaBelief(lr=0.1, betas=(0.5, 0.75), eps=0.0), 1.0, [2.0, 1.0]) == [
        approx({"weight": 0.8, "exp_avg": 1.0, "exp_avg_var": 0.25}),
        approx({"weight": after2, "exp_avg": 1.0, "exp_avg_var": 0.1875}),
    ]


def test_epsilon_enters_twice(walk: Walk) -> None:
    # s₁ = 0.25 + 0.11 = 0.36, ŝ₁ = 1.44, and the divisor is 1.2 + 0.11
    (after,) = walk(AdaBelief(lr=0.1, betas=(0.5, 0.75), eps=0.11), 1.0, [2.0])
    assert after["weight"] == approx(1 - 0.2 / 1.31)


def test_a_foretold_gradient_takes_larger_steps(walk: Walk) -> None:
    # Both have the same squares, so Adam's divisor is the same for both.
    rule = AdaBelief(lr=0.1, betas=(0.9, 0.9))
    steady = walk(rule, 0.0, [1.0] * 30)
    turning = walk(rule, 0.0, [1.0, -1.0] * 15)
    assert steady[-1]["exp_avg_var"] < 0.1 * turning[-1]["exp_avg_var"]
    assert steady[-2]["weight"] - steady[-1]["weight"] > 0.3  # Adam's step is 0.1
    assert abs(turning[-2]["weight"] - turning[-1]["weight"]) < 0.02
