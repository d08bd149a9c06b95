from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.schedules import Cosine, Linear


def transformers_linear(step: int, warmup: int, horizon: int) -> float:
    """The factor of get_linear_schedule_with_warmup in transformers, from its formula: max(0, (T − t) / (T − W))."""
    if step < warmup:
        return step / warmup
    return max(0.0, (horizon - step) / max(1, horizon - warmup))


def test_by_hand() -> None:
    # W = 2, T = 10: up in halves, down in eighths.
    schedule = Linear(horizon=10, warmup=2)
    assert [schedule(step) for step in range(13)] == [
        0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0, 0.0,
    ]  # fmt: skip


def test_by_hand_to_an_end_above_zero() -> None:
    # T = 4, end = 0.5: a quarter of the half at every step.
    schedule = Linear(horizon=4, end=0.5)
    assert [schedule(step) for step in range(7)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5]


def test_it_may_rise() -> None:
    schedule = Linear(horizon=4, end=3.0)
    assert [schedule(step) for step in range(6)] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]


@settings(deadline=None)
@given(st.data())
def test_it_is_transformers_linear_schedule(data: st.DataObject) -> None:
    horizon = data.draw(st.integers(1, 500))
    warmup = data.draw(st.integers(0, horizon))
    schedule = Linear(horizon=horizon, warmup=warmup)
    for step in range(horizon + 20):
        assert schedule(step) == transformers_linear(step, warmup, horizon)


@pytest.mark.parametrize("shape", [Linear, Cosine])
@pytest.mark.parametrize("end", [-0.1, float("nan"), float("inf")])
def test_an_end_out_of_range_is_an_error(shape: Any, end: float) -> None:
    with pytest.raises(ValueError, match=rf"^end must be a finite number of at least 0, got {end!r}$"):
        shape(end=end)


@pytest.mark.parametrize("shape", [Linear, Cosine])
@pytest.mark.parametrize("end", ["0.1", True, None])
def test_an_end_that_is_no_number_is_an_error(shape: Any, end: Any) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(f'end must be a number, got {end!r}')}$"):
        shape(end=end)
