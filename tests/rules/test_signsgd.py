"""SignSGD and Signum, worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from rules.walking import Walk
from stepwell.rules import SignSGD

approx = pytest.approx


def test_steps_without_momentum(walk: Walk) -> None:
    path = walk(SignSGD(lr=0.1), 1.0, [2.0, -0.001, 0.0])
    assert path == [approx({"weight": weight}) for weight in (0.9, 1.0, 1.0)]


def test_two_steps_with_momentum(walk: Walk) -> None:
    # m₁ = 0.25·2 = 0.5; m₂ = 0.75·0.5 − 0.25·1 = 0.125: still down
    assert walk(SignSGD(lr=0.1, momentum=0.75), 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.9, "momentum_buffer": 0.5}),
        approx({"weight": 0.8, "momentum_buffer": 0.125}),
    ]


def test_decoupled_decay(walk: Walk) -> None:
    # 1·(1 − 0.1·0.5) − 0.1
    assert walk(SignSGD(lr=0.1, weight_decay=0.5), 1.0, [3.0]) == [approx({"weight": 0.85})]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_every_step_is_the_rate(walk: Walk, scale: float, momentum: float) -> None:
    gradients = [scale * g for g in (1.0, -3.0, 0.5, -0.1, 2.0)]
    path = [1.0, *(after["weight"] for after in walk(SignSGD(lr=0.01, momentum=momentum), 1.0, gradients))]
    assert [abs(b - a) for a, b in itertools.pairwise(path)] == approx([0.01] * 5)


def test_momentum_has_a_slot_only_where_there_is_momentum() -> None:
    assert SignSGD().slots == ()
    assert SignSGD(momentum=0.9).slots == ("momentum_buffer",)
