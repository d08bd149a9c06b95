from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.pictures.scales import Scale, linear_ticks, log_ticks


def test_a_linear_scale():
    scale = Scale(10, 20, 100, 300)
    assert [scale(10), scale(15), scale(20)] == [100, 200, 300]


def test_a_scale_that_runs_upwards():
    assert Scale(0, 4, 300, 100)(1) == 250


def test_a_logarithmic_scale():
    scale = Scale(0.001, 0.1, 0, 100, log=True)
    assert [scale(0.001), scale(0.01), scale(0.1)] == pytest.approx([0, 50, 100])


def test_a_scale_of_one_value_does_not_divide_by_zero():
    assert Scale(3, 3, 0, 100)(3) == 0


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 350, 3, [0, 100, 200, 300]),
        (1.52, 2.31, 4, [1.6, 1.8, 2.0, 2.2]),
        (0, 1, 2, [0, 0.5, 1]),
        (5, 5, 3, [5]),
        (0, 3.5e-14, 3, [0, 1e-14, 2e-14, 3e-14]),
    ],
)
def test_linear_ticks(low, high, count, expected):
    assert linear_ticks(low, high, count) == pytest.approx(expected, abs=0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.02, [0.001, 0.002, 0.005, 0.01, 0.02]),
        (0.003, 0.04, [0.005, 0.01, 0.02]),
        (0.001, 0.05, [0.001, 0.003, 0.01, 0.03]),
        (0.0001, 1, [0.0001, 0.001, 0.01, 0.1, 1]),
    ],
)
def test_log_ticks(low, high, expected):
    assert log_ticks(low, high) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 10))
def test_linear_ticks_are_few_rising_and_inside(low, width, count):
    scale = Scale(low, low + width, 0, 100)
    ticks = scale.ticks(count)
    assert len(ticks) <= 3 * count + 2
    assert ticks == sorted(set(ticks))
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)
