"""Where a scheduled value starts, how high it goes, where it ends."""

from __future__ import annotations

import pytest

from stepwell.planning.course import Course, course
from stepwell.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    InverseSqrt,
    Linear,
    MultiStep,
    Noam,
    repeat,
    sequence,
    warmup,
)


@pytest.mark.parametrize(
    ("schedule", "horizon", "expected"),
    [
        (None, None, Course(0.1, 0.1, 0.1)),
        (Constant(), None, Course(0.1, 0.1, 0.1)),
        (Linear(), 10, Course(0.1, 0.1, 0.0)),
        (Cosine(warmup=0.1, end=0.1), 1_000_000, Course(0.0, 0.1, 0.01)),
        # A peak of one step in a million is met: the warm-up ends between two samples.
        (Linear(warmup=333_333), 1_000_000, Course(0.0, 0.1, 0.0)),
        (Linear(warmup=10**22 // 3), 10**22, Course(0.0, 0.1, 0.0)),
        (MultiStep(at=[0.5], gamma=0.1), 100, Course(0.1, 0.1, 0.01)),
        (CosineRestarts(cycles=4), 1000, Course(0.1, 0.1, 0.0)),
        (Constant(warmup=10), None, Course(0.0, 0.1, 0.1)),
    ],
    ids=repr,
)
def test_start_peak_and_end(schedule, horizon, expected):
    found = course(0.1, schedule, horizon)
    assert (found.start, found.end) == pytest.approx((expected.start, expected.end))
    assert found.peak == pytest.approx(expected.peak, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(warmup=5000), Course(0.0, 0.1, 0.1)),
        (InverseSqrt(warmup=10_000), Course(0.0, 0.1, None)),
        (Noam(warmup=8000), Course(0.1 / 8000, 0.1, None)),
        (Cyclic(up=100_000), Course(0.01, 0.1, None)),
        (MultiStep(at=[1000, 50_000]), Course(0.1, 0.1, 0.001)),
        (warmup(Cosine(horizon=30_000, end=0.1), 6000), Course(0.0, 0.1, 0.01)),
        (sequence(Constant(warmup=5000), InverseSqrt(timescale=100), at=[9000]), Course(0.0, 0.1, None)),
        (repeat(Constant(warmup=7000), 9000, times=2), Course(0.0, 0.1, 0.1)),
        (Linear(horizon=20_000, warmup=10_000), Course(0.0, 0.1, 0.0)),
    ],
    ids=repr,
)
def test_without_a_horizon_the_lengths_of_the_schedule_are_gone_through(schedule, expected):
    found = course(0.1, schedule, None)
    assert (found.start, found.peak) == pytest.approx((expected.start, expected.peak))
    assert found.end == (None if expected.end is None else pytest.approx(expected.end))


@pytest.mark.parametrize("horizon", [None, 5])
def test_a_schedule_that_cannot_be_laid_out_has_none(horizon):
    assert course(0.1, Cosine(warmup=10), horizon) is None


def test_as_text():
    assert str(Course(0.0, 0.001, 1e-5)) == "0 → 0.001 → 1e-05"
    assert str(Course(3e-4, 3e-4, 3e-4)) == "0.0003"
    assert str(Course(0.0, 3e-4, None)) == "0 → 0.0003 → …"
