"""ADOPT, worked out by hand."""

from __future__ import annotations

import pytest

from rules.walking import Walk
from stepwell.rules import ADOPT

approx = pytest.approx


def test_three_steps(walk: Walk) -> None:
    # v₀ = 4. g₁ = 1: 1/√4 = 0.5 is within ±1, m₁ = 0.25, v₁ = 0.75·4 + 0.25 = 3.25.
    # g₂ = −8: −8/√3.25 = −4.4 is cut to −2^¼, m₂ = 0.125 − 0.5·2^¼, v₂ = 0.75·3.25 + 0.25·64
    m2 = 0.125 - 0.5 * 2**0.25
    assert walk(ADOPT(lr=0.1, betas=(0.5, 0.75)), 1.0, [2.0, 1.0, -8.0]) == [
        approx({"weight": 1.0, "exp_avg": 0.0, "exp_avg_sq": 4.0}),
        approx({"weight": 0.975, "exp_avg": 0.25, "exp_avg_sq": 3.25}),
        approx({"weight": 0.975 - 0.1 * m2, "exp_avg": m2, "exp_avg_sq": 18.4375}),
    ]


def test_without_clipping(walk: Walk) -> None:
    # g₁ = −8 over √4
    *_, after = walk(ADOPT(lr=0.1, betas=(0.5, 0.75), clip_exp=None), 1.0, [2.0, -8.0])
    assert after == approx({"weight": 1.2, "exp_avg": -2.0, "exp_avg_sq": 19.0})


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent"])
@pytest.mark.parametrize("clip_exp", [0.25, 0.0, None])
def test_the_first_gradient_moves_nothing(walk: Walk, clip_exp: float | None, decay: str) -> None:
    (after,) = walk(ADOPT(lr=0.1, weight_decay=0.5, clip_exp=clip_exp, decay=decay), 1.0, [2.0])
    assert (after["weight"], after["exp_avg"]) == (1.0, 0.0)


def test_a_gradient_is_not_divided_by_itself(walk: Walk) -> None:
    # That is what lets it converge for any β₂: the same gradient gives the same step, whatever β₂ is.
    for beta2 in (0.0, 0.5, 0.999):
        path = walk(ADOPT(lr=0.1, betas=(0.0, beta2), clip_exp=None), 1.0, [2.0, 6.0])
        assert path[-1]["weight"] == approx(1 - 0.1 * 6 / 2)


def test_epsilon_is_the_least_divisor(walk: Walk) -> None:
    *_, after = walk(ADOPT(lr=0.1, betas=(0.0, 0.9), eps=0.5), 1.0, [0.1, 0.2])
    assert after["weight"] == approx(1 - 0.1 * 0.2 / 0.5)
