"""AdEMAMix, worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adam, AdEMAMix

approx = pytest.approx


def test_two_steps(walk: Walk) -> None:
    # β = (0.5, 0.75, 0.875), α = 2. g₁ = 2: m̂¹ = 2, m² = 0.25, v̂ = 4: (2 + 0.5)/2.
    # g₂ = −1: m¹ = 0.5 − 0.5 = 0, m² = 0.875·0.25 − 0.125 = 0.09375, v = 0.75 + 0.25 = 1, v̂ = 1/0.4375
    after2 = 0.875 - 0.1 * 0.1875 * math.sqrt(0.4375)
    rule = AdEMAMix(lr=0.1, betas=(0.5, 0.75, 0.875), alpha=2.0, eps=0.0)
    assert walk(rule, 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.875, "exp_avg_fast": 1.0, "exp_avg_slow": 0.25, "exp_avg_sq": 1.0}),
        approx({"weight": after2, "exp_avg_fast": 0.0, "exp_avg_slow": 0.09375, "exp_avg_sq": 1.0}),
    ]


def test_the_half_life_of_the_slow_mean_grows_linearly(walk: Walk) -> None:
    # β₁ = ½ forgets half in 1 step, β₃ = ½^⅕ in 5: over 4 steps the half-lives are 2, 3, 4 and 5, and then stay.
    rule = AdEMAMix(betas=(0.5, 0.9, 0.5**0.2), beta3_warmup=4)
    slow = [0.0, *(after["exp_avg_slow"] for after in walk(rule, 1.0, [1.0] * 6))]
    kept = [(1 - after) / (1 - before) for before, after in itertools.pairwise(slow)]
    assert kept == approx([0.5 ** (1 / half_life) for half_life in (2, 3, 4, 5, 5, 5)])


def test_alpha_grows_linearly(walk: Walk) -> None:
    # With β₁ = 0 and gradients of 1 the step is 1 + α(t)·m²ₜ, and m²ₜ = 1 − β₃ᵗ.
    rule = AdEMAMix(lr=1.0, betas=(0.0, 0.0, 0.5), alpha=8.0, alpha_warmup=4, eps=0.0)
    path = [0.0, *(after["weight"] for after in walk(rule, 0.0, [1.0] * 5))]
    steps = [before - after for before, after in itertools.pairwise(path)]
    assert steps == approx([1 + min(2 * t, 8) * (1 - 0.5**t) for t in range(1, 6)])


def test_a_fast_mean_without_memory_can_warm_up(walk: Walk) -> None:
    # β₁ = 0: 1/ln β₃(t) = t/2·(1/ln ½), so β₃(1) = ¼ and β₃(2) = ½
    path = walk(AdEMAMix(betas=(0.0, 0.9, 0.5), beta3_warmup=2), 1.0, [1.0, 0.0])
    assert [after["exp_avg_slow"] for after in path] == approx([0.75, 0.375])


def test_without_the_slow_mean_it_is_adam(walk: Walk) -> None:
    gradients = [2.0, -1.0, 0.5, 3.0]
    path = walk(AdEMAMix(betas=(0.9, 0.99, 0.999), alpha=0.0), 1.0, gradients)
    adam = walk(Adam(betas=(0.9, 0.99)), 1.0, gradients)
    assert [after["weight"] for after in path] == approx([after["weight"] for after in adam])


def test_a_gradient_is_remembered_long(walk: Walk) -> None:
    # A thousand steps after a gradient the fast mean knows nothing of it, and the slow one nine tenths.
    path = walk(AdEMAMix(), 1.0, [1.0] + [0.0] * 1000)
    assert path[-1]["exp_avg_slow"] == approx(path[0]["exp_avg_slow"] * 0.9999**1000)
    assert path[-1]["exp_avg_slow"] > 0.9 * path[0]["exp_avg_slow"]
    assert path[-1]["exp_avg_fast"] < 1e-40
