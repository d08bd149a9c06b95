"""Adamax, worked out by hand."""

from __future__ import annotations

import pytest

from rules.walking import Walk
from stepwell.rules import Adamax

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # β = (0.5, 0.75): m̂₁ = 2, u₁ = 2; m₂ = 0.5 + 0.5 = 1, m̂₂ = 4/3, u₂ = max(1.5, 1)
    after2 = 0.9 - 0.1 * (4 / 3) / 1.5
    assert walk(Adamax(lr=0.1, betas=(0.5, 0.75), eps=0.0), 1.0, [2.0, 1.0]) == [
        approx({"weight": 0.9, "exp_avg": 1.0, "exp_inf": 2.0}),
        approx({"weight": after2, "exp_avg": 1.0, "exp_inf": 1.5}),
    ]


def test_epsilon_stands_inside_the_maximum(walk: Walk) -> None:
    # u = max(0, 0.5 + 0.5), so the step is a half
    (after,) = walk(Adamax(lr=1.0, eps=0.5), 0.0, [0.5])
    assert after["weight"] == approx(-0.5)


def test_a_large_gradient_is_forgotten_slowly(walk: Walk) -> None:
    path = walk(Adamax(betas=(0.9, 0.5), eps=0.0), 0.0, [8.0, 1.0, -1.0, 0.5, 3.0])
    assert [after["exp_inf"] for after in path] == [8.0, 4.0, 2.0, 1.0, 3.0]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_step_is_independent_of_the_gradients_scale(walk: Walk, scale: float) -> None:
    rule, gradients = Adamax(lr=0.1, eps=0.0), [1.0, -0.5, 3.0]
    expected = [after["weight"] for after in walk(rule, 1.0, gradients)]
    assert expected[0] == approx(0.9)
    assert [after["weight"] for after in walk(rule, 1.0, [scale * g for g in gradients])] == approx(expected)
