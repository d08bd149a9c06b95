"""Adagrad, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adagrad

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # r₁ = 4: a step of 0.1·2/2; r₂ = 4 + 1: a step of −0.1/√5
    assert walk(Adagrad(lr=0.1, eps=0.0), 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.9, "sum": 4.0}),
        approx({"weight": 0.9 + 0.1 / math.sqrt(5), "sum": 5.0}),
    ]


def test_the_accumulator_has_a_start_and_the_rate_falls(walk: Walk) -> None:
    # r₁ = 5 + 4 = 9: 0.1·2/3; r₂ = 9 + 16 = 25 at half the rate: 0.05·4/5
    rule = Adagrad(lr=0.1, lr_decay=1.0, initial_accumulator_value=5.0, eps=0.0)
    assert walk(rule, 1.0, [2.0, 4.0]) == [
        approx({"weight": 1 - 0.2 / 3, "sum": 9.0}),
        approx({"weight": 1 - 0.2 / 3 - 0.04, "sum": 25.0}),
    ]


def test_epsilon_stands_outside_the_root(walk: Walk) -> None:
    (after,) = walk(Adagrad(lr=1.0, eps=0.5), 0.0, [0.5])
    assert after["weight"] == approx(-0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_steps_of_a_steady_gradient_fall_with_the_root_of_the_step(walk: Walk, scale: float) -> None:
    path = walk(Adagrad(lr=0.1, eps=0.0), 0.0, [scale] * 5)
    assert [after["weight"] for after in path] == approx(
        [-0.1 * sum(1 / math.sqrt(t) for t in range(1, n + 1)) for n in range(1, 6)]
    )
