"""RMSprop, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import RMSprop

approx = pytest.approx

# α = 0.75, g₁ = 2, g₂ = −4: v₁ = 0.25·4 = 1, v₂ = 0.75 + 0.25·16 = 4.75
STEP2 = -4 / math.sqrt(4.75)


def test_two_steps(walk: Walk) -> None:
    assert walk(RMSprop(lr=0.1, alpha=0.75, eps=0.0), 1.0, [2.0, -4.0]) == [
        approx({"weight": 0.8, "square_avg": 1.0}),
        approx({"weight": 0.8 - 0.1 * STEP2, "square_avg": 4.75}),
    ]


def test_two_steps_with_momentum(walk: Walk) -> None:
    # b₁ = 2, b₂ = 0.5·2 + d₂
    assert walk(RMSprop(lr=0.1, alpha=0.75, eps=0.0, momentum=0.5), 1.0, [2.0, -4.0]) == [
        approx({"weight": 0.8, "square_avg": 1.0, "momentum_buffer": 2.0}),
        approx({"weight": 0.7 - 0.1 * STEP2, "square_avg": 4.75, "momentum_buffer": 1 + STEP2}),
    ]


def test_two_centered_steps(walk: Walk) -> None:
    # ḡ₁ = 0.5: variance 1 − 0.25; ḡ₂ = 0.375 − 1 = −0.625: variance 4.75 − 0.390625
    after1 = 1 - 0.2 / math.sqrt(0.75)
    assert walk(RMSprop(lr=0.1, alpha=0.75, eps=0.0, centered=True), 1.0, [2.0, -4.0]) == [
        approx({"weight": after1, "square_avg": 1.0, "grad_avg": 0.5}),
        approx({"weight": after1 + 0.4 / math.sqrt(4.359375), "square_avg": 4.75, "grad_avg": -0.625}),
    ]


def test_epsilon_stands_outside_the_root(walk: Walk) -> None:
    (after,) = walk(RMSprop(lr=1.0, alpha=0.75, eps=0.1), 0.0, [0.2])
    assert after["weight"] == approx(-1.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_step_is_independent_of_the_gradients_scale(walk: Walk, scale: float) -> None:
    # From a mean that starts at 0 the first step is 1/√(1 − α) times the rate.
    (after,) = walk(RMSprop(lr=0.1, alpha=0.96, eps=0.0), 0.0, [scale])
    assert after["weight"] == approx(-0.5)


def test_a_variance_that_is_rounded_below_zero_is_zero(walk: Walk) -> None:
    # Of a steady gradient the variance is 0 in the end, and rounding decides its sign: never a NaN.
    path = walk(RMSprop(lr=0.0, alpha=0.5, eps=1e-3, centered=True), 1.0, [0.1] * 80)
    assert any(after["square_avg"] - after["grad_avg"] ** 2 <= 0 for after in path)
    assert all(math.isfinite(after["weight"]) for after in path)


def test_slots() -> None:
    assert [slot.name for slot in RMSprop().slot_list()] == ["square_avg"]
    all_of_them = RMSprop(momentum=0.9, centered=True).slot_list()
    assert [slot.name for slot in all_of_them] == ["square_avg", "momentum_buffer", "grad_avg"]
