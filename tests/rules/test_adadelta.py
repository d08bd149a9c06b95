"""Adadelta, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adadelta

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # ρ = 0.75, ε = 1: v₁ = 1, d₁ = √1/√2·2 = √2, u₁ = 0.25·2; v₂ = 1.75, d₂ = −2·√1.5/√2.75, d₂² = 4·1.5/2.75
    d2 = -2 * math.sqrt(1.5 / 2.75)
    after1 = 1 - 0.5 * math.sqrt(2)
    assert walk(Adadelta(lr=0.5, rho=0.75, eps=1.0), 1.0, [2.0, -2.0]) == [
        approx({"weight": after1, "square_avg": 1.0, "acc_delta": 0.5}),
        approx({"weight": after1 - 0.5 * d2, "square_avg": 1.75, "acc_delta": 0.375 + 0.25 * 6 / 2.75}),
    ]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_steps_have_the_units_of_the_weights(walk: Walk, scale: float) -> None:
    # A gradient in other units takes the same steps, as long as ε is small beside its square.
    rule, gradients = Adadelta(eps=1e-16), [1.0, -0.5, 3.0]
    expected = [after["weight"] for after in walk(rule, 0.0, gradients)]
    assert [after["weight"] for after in walk(rule, 0.0, [scale * g for g in gradients])] == approx(expected)


def test_the_first_step_is_the_root_of_epsilon(walk: Walk) -> None:
    # √ε / √(1 − ρ) for any gradient that is large beside √ε
    (after,) = walk(Adadelta(rho=0.75, eps=1e-6), 0.0, [1e3])
    assert after["weight"] == approx(-2e-3)
