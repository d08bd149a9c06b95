"""Adan, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adan

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # β = (0.5, 0.75, 0.75): m̂₁ = 2, v₁ = 0, n₁ = 1, n̂₁ = 4. Then g₂ − g₁ = 2: m₂ = 2.5, m̂₂ = 10/3, v₂ = 0.5,
    # v̂₂ = 0.5/0.4375 = 8/7, n₂ = 0.75 + 0.25·(4 + 0.75·2)² = 8.3125, n̂₂ = 8.3125/0.4375 = 19
    after2 = 0.9 - 0.1 * (10 / 3 + 0.75 * 8 / 7) / math.sqrt(19)
    first, second = walk(Adan(lr=0.1, betas=(0.5, 0.75, 0.75), eps=0.0), 1.0, [2.0, 4.0])
    assert first == approx(
        {"weight": 0.9, "exp_avg": 1.0, "exp_avg_diff": 0.0, "exp_avg_sq": 1.0, "neg_pre_grad": -2.0}
    )
    assert second == approx(
        {"weight": after2, "exp_avg": 2.5, "exp_avg_diff": 0.5, "exp_avg_sq": 8.3125, "neg_pre_grad": -4.0}
    )


def test_decay_is_proximal(walk: Walk) -> None:
    # The step is lr, and after it the weight is divided by 1 + 0.1·0.5; decoupled decay comes before the step.
    (after,) = walk(Adan(lr=0.1, eps=0.0, weight_decay=0.5), 1.0, [2.0])
    assert after["weight"] == approx(0.9 / 1.05)
    (after,) = walk(Adan(lr=0.1, eps=0.0, weight_decay=0.5, decay="decoupled"), 1.0, [2.0])
    assert after["weight"] == approx(0.85)


@pytest.mark.parametrize("gradient", [-1e-3, 1e3])
def test_a_steady_gradient_takes_steps_of_the_rate(walk: Walk, gradient: float) -> None:
    # Differences are 0, m̂ = g and n̂ = g².
    path = walk(Adan(lr=0.1, eps=0.0), 1.0, [gradient] * 4)
    direction = math.copysign(0.1, gradient)
    assert [after["weight"] for after in path] == approx([1 - n * direction for n in range(1, 5)])
