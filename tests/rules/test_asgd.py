"""ASGD, worked out by hand."""

from __future__ import annotations

import pytest

from rules.walking import Walk
from stepwell.rules import ASGD

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # η₁ = 0.1, θ₁ = 1 − 0.1·(2 + 0.5·1) = 0.75; η₂ = 0.1/(1 + 0.5·0.1), θ₂ = 0.75 − η₂·(−1 + 0.5·0.75)
    after2 = 0.75 + 0.625 * 0.1 / 1.05
    assert walk(ASGD(lr=0.1, lambd=0.5, alpha=1.0, t0=1), 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.75, "ax": 0.75, "eta": 0.1 / 1.05, "mu": 1.0}),
        approx({"weight": after2, "ax": after2, "eta": 0.1 / 1.1, "mu": 1.0}),
    ]


def test_the_rate_falls_by_a_power_of_the_step(walk: Walk) -> None:
    path = walk(ASGD(lr=2.0, lambd=0.5, alpha=0.75), 1.0, [0.0] * 3)
    assert [after["eta"] for after in path] == approx([2 / 2**0.75, 2 / 3**0.75, 2 / 4**0.75])


def test_before_t0_the_average_is_the_weight(walk: Walk) -> None:
    path = walk(ASGD(lr=0.1, t0=10), 1.0, [1.0, -2.0, 0.5, 3.0])
    assert [after["ax"] for after in path] == [after["weight"] for after in path]


@pytest.mark.parametrize("t0", [0, 3])
def test_from_t0_on_it_is_the_mean_of_the_path(walk: Walk, t0: int) -> None:
    # μ = 1 at step t₀ + 2, which is therefore where the mean begins
    path = [(after["weight"], after["ax"]) for after in walk(ASGD(lr=0.1, t0=t0), 1.0, [1.0, -2.0, 0.5, 3.0, 0.1, -1])]
    for n in range(t0 + 2, len(path) + 1):
        since = [weight for weight, _ in path[t0 + 1 : n]]
        assert path[n - 1][1] == approx(sum(since) / len(since))
