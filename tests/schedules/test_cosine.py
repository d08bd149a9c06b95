from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR

from stepwell.schedules import Cosine


def transformers_cosine(step: int, warmup: int, horizon: int) -> float:
    """The factor of get_cosine_schedule_with_warmup in transformers, from its formula with num_cycles = 0.5."""
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, horizon - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * 0.5 * 2 * progress)))


def test_by_hand() -> None:
    # W = 2, T = 8: the six steps down are at 0°, 30°, … 180°, whose cosines are 1, √3/2, ½, 0, −½, −√3/2, −1.
    schedule = Cosine(horizon=8, warmup=2)
    r = math.sqrt(3) / 2
    expected = [0.0, 0.5, 1.0, (1 + r) / 2, 0.75, 0.5, 0.25, (1 - r) / 2, 0.0, 0.0, 0.0]
    assert [schedule(step) for step in range(11)] == pytest.approx(expected, abs=1e-15)


def test_by_hand_to_an_end_above_zero() -> None:
    # T = 3, end = 0.2: 0.2 + 0.8 · (1, ¾, ¼, 0).
    schedule = Cosine(horizon=3, end=0.2)
    assert [schedule(step) for step in range(6)] == pytest.approx([1.0, 0.8, 0.4, 0.2, 0.2, 0.2], abs=1e-15)


@settings(deadline=None)
@given(st.data())
def test_it_is_transformers_cosine_schedule_up_to_the_horizon(data: st.DataObject) -> None:
    horizon = data.draw(st.integers(1, 500))
    warmup = data.draw(st.integers(0, horizon - 1))
    schedule = Cosine(horizon=horizon, warmup=warmup)
    for step in range(horizon + 1):
        assert schedule(step) == pytest.approx(transformers_cosine(step, warmup, horizon), abs=1e-15)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_it_is_torchs_cosine_annealing_up_to_the_horizon(end: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    peer = CosineAnnealingLR(optimizer, T_max=50, eta_min=0.3 * end)
    schedule = Cosine(horizon=50, end=end)
    for step in range(51):
        assert 0.3 * schedule(step) == pytest.approx(peer.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        peer.step()


def test_it_does_not_climb_again_past_the_horizon() -> None:
    # One step past T = 4 the formulas of torch and transformers are back at ½(1 + cos(5π/4)) = 0.146….
    assert transformers_cosine(5, 0, 4) == pytest.approx(0.5 * (1 - math.sqrt(0.5)))
    schedule = Cosine(horizon=4)
    assert [schedule(step) for step in (4, 5, 6, 7, 8, 10**9)] == [0.0] * 6


def test_a_warmup_that_fills_the_horizon_is_followed_by_the_end() -> None:
    schedule = Cosine(horizon=4, warmup=4, end=0.1)
    assert [schedule(step) for step in range(7)] == [0.0, 0.25, 0.5, 0.75, 0.1, 0.1, 0.1]
