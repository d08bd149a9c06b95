"""Tiger, worked out by hand."""

from __future__ import annotations

import pytest

from rules.walking import Walk
from stepwell.rules import Lion, SignSGD, Tiger

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # m₁ = 0.5, m₂ = 0.75·0.5 − 0.25 = 0.125; each step takes a share of 0.1·0.5 and then 0.1
    assert walk(Tiger(lr=0.1, beta=0.75, weight_decay=0.5), 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.85, "exp_avg": 0.5}),
        approx({"weight": 0.95 * 0.85 - 0.1, "exp_avg": 0.125}),
    ]


def test_it_is_lion_with_one_beta_and_signum(walk: Walk) -> None:
    gradients = [2.0, -1.0, 0.3, -4.0, 0.0, 1.0]
    numbers = {"lr": 0.1, "weight_decay": 0.3}
    path = [after["weight"] for after in walk(Tiger(beta=0.8, **numbers), 1.0, gradients)]
    lion, signum = Lion(betas=(0.8, 0.8), **numbers), SignSGD(momentum=0.8, **numbers)
    assert [after["weight"] for after in walk(lion, 1.0, gradients)] == approx(path)
    assert [after["weight"] for after in walk(signum, 1.0, gradients)] == approx(path)


def test_defaults_are_the_authors() -> None:
    assert (Tiger().lr, Tiger().beta, Tiger().weight_decay) == (1e-3, 0.965, 0.01)
