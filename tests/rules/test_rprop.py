"""Rprop, worked out by hand."""

from __future__ import annotations

import pytest

from rules.walking import Walk
from stepwell.rules import Rprop

approx = pytest.approx


def test_five_steps(walk: Walk) -> None:
    # Δ = 0.1, then 1.2 times that, then half of that where the sign turns, and there no move; 0 agrees with any sign.
    path = walk(Rprop(lr=0.1), 1.0, [1.0, 2.0, -1.0, -1.0, -5.0])
    assert path == [
        approx({"weight": 0.9, "prev": 1.0, "step_size": 0.1}),
        approx({"weight": 0.78, "prev": 2.0, "step_size": 0.12}),
        approx({"weight": 0.78, "prev": 0.0, "step_size": 0.06}),
        approx({"weight": 0.84, "prev": -1.0, "step_size": 0.06}),
        approx({"weight": 0.912, "prev": -5.0, "step_size": 0.072}),
    ]


def test_step_sizes_stay_in_their_bounds(walk: Walk) -> None:
    path = walk(Rprop(lr=0.1, etas=(0.5, 1.5), step_sizes=(0.08, 0.2)), 1.0, [1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    assert [after["step_size"] for after in path] == approx([0.1, 0.15, 0.2, 0.1, 0.1, 0.08, 0.08])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_only_signs_count(walk: Walk, scale: float) -> None:
    rule, gradients = Rprop(lr=0.1), [1.0, 2.0, -1.0, 3.0, 0.0, 1.0]
    expected = [after["weight"] for after in walk(rule, 1.0, gradients)]
    assert [after["weight"] for after in walk(rule, 1.0, [scale * g for g in gradients])] == approx(expected)


def test_decay_is_a_share_by_the_rate(walk: Walk) -> None:
    # The step is Δ, whatever the rate; the decay is lr·λ all the same: 1·(1 − 0.1·0.5) − 0.1
    (after,) = walk(Rprop(lr=0.1, weight_decay=0.5), 1.0, [3.0])
    assert after["weight"] == approx(0.85)


def test_bounds_in_the_wrong_order() -> None:
    with pytest.raises(ValueError, match=r"^step_sizes must be the smallest and the largest, got \(0\.5, 0\.1\)$"):
        Rprop(step_sizes=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"^etas\[1\] must be above 1, got 0\.9$"):
        Rprop(etas=(0.5, 0.9))
