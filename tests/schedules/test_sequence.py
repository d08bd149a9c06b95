from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from stepwell.schedules import Constant, Cosine, Linear, Schedule, sequence


def test_each_schedule_sees_the_steps_since_its_own_start() -> None:
    # Warm-up 2, constant, and from step 5 a line to 0 over the 4 steps that are left of 9.
    schedule = sequence(Constant(warmup=2), Linear(), at=[5], horizon=9)
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [schedule(step) for step in range(11)] == expected
    assert schedule(10**9) == 0.0


def test_shares_are_of_the_horizon_of_the_whole() -> None:
    resolved = sequence(Constant(warmup=0.5), Linear(warmup=0.1), Cosine(), at=[20, 0.8]).resolve(200)
    # The first lasts 20 steps, the second from 20 to 160, the third from 160 to 200.
    assert resolved == sequence(Constant(warmup=10), Linear(horizon=140, warmup=14), Cosine(horizon=40), at=[20, 160])


def test_a_schedule_with_a_horizon_of_its_own_keeps_it() -> None:
    schedule = sequence(Linear(horizon=4, end=0.5), Constant(), at=[8])
    # Four steps down to a half, held for four more; the next starts at 1.
    assert [schedule(step) for step in range(10)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_no_horizon_is_asked_for_where_none_is_needed() -> None:
    schedule = sequence(Constant(warmup=0.5), Constant(), at=[4])
    assert [schedule(step) for step in range(6)] == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_schedule_that_is_cut_has_a_length_of_its_own() -> None:
    schedule = sequence(Linear(horizon=8, warmup=4), Constant(warmup=3), Constant(), at=[2, 4], cut=True)
    assert [schedule(step) for step in range(6)] == [0.0, 0.25, 0.0, 1 / 3, 1.0, 1.0]
    assert eval(repr(schedule)) == schedule
    with pytest.raises(ValueError, match=r"needs a horizon"):
        sequence(Linear(), Constant(), at=[2], horizon=9, cut=True)(0)


def test_sequences_nest() -> None:
    inner = sequence(Linear(), Linear(), at=[0.5])
    schedule = sequence(Constant(), inner, at=[4], horizon=12)
    # Eight steps for the inner one, four for each of its lines.
    assert [schedule(step) for step in range(13)] == [1.0] * 4 + [1.0, 0.75, 0.5, 0.25] * 2 + [0.0]


def test_one_step_and_many_steps_agree() -> None:
    schedule = sequence(Constant(warmup=3), Cosine(end=0.2), Linear(warmup=2), at=[7, 0.5], horizon=40)
    steps = np.arange(60)
    assert schedule(steps).tolist() == pytest.approx([schedule(int(step)) for step in steps], abs=1e-15)
    assert [schedule(float(step)) for step in steps] == [schedule(int(step)) for step in steps]


A, B = Constant(), Linear()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sequence(at=[]), ValueError, "a sequence needs at least 2 schedules, got 0"),
        (lambda: sequence(A, at=[]), ValueError, "a sequence needs at least 2 schedules, got 1"),
        (lambda: sequence(A, 0.5, at=[3]), TypeError, "schedule 1 of a sequence must be a Schedule, got 0.5"),
        (
            lambda: sequence(A, B, at=[3, 5]),
            ValueError,
            "at says where each schedule after the first starts: 2 schedules need 1, got 2",
        ),
        (
            lambda: sequence(A, B, at=0.8),
            TypeError,
            "at must be a list of steps or shares, one for each schedule after the first, got 0.8",
        ),
        (lambda: sequence(A, B, at=[0]), ValueError, "at[0] must be at least 1, got 0"),
        (
            lambda: sequence(A, B, at=[800.0]),
            ValueError,
            "at[0] is a share of the horizon when it is a float, strictly between 0 and 1, got 800.0; "
            "write 800 for steps",
        ),
        (
            lambda: sequence(A, B, at=["1"]),
            TypeError,
            "at[0] must be steps (int) or a share of the horizon (float), got '1'",
        ),
        (
            lambda: sequence(A, A, B, at=[5, 5]),
            ValueError,
            "at must ascend from at least step 1, got [5, 5], which is at 5, 5",
        ),
        (
            lambda: sequence(A, A, B, at=[0.8, 100], horizon=1000),
            ValueError,
            "at must ascend from at least step 1, got [0.8, 100], which is at 800, 100",
        ),
        (
            lambda: sequence(A, A, B, at=[0.01, 0.02]).resolve(10),
            ValueError,
            "at must ascend from at least step 1, got [0.01, 0.02], which is at 1, 1",
        ),
        (
            lambda: sequence(A, B, at=[10]).resolve(10),
            ValueError,
            "at must be less than the horizon of 10 steps, got [10]",
        ),
        (lambda: sequence(A, B, at=[1], horizon=0), ValueError, "horizon must be at least 1 step, got 0"),
        (
            lambda: sequence(Constant(warmup=9), B, at=[5], horizon=10).resolve(),
            ValueError,
            "schedule 0 of sequence(Constant(warmup=9), Linear(), at=[5], horizon=10): "
            "warmup must be at most the horizon of 5 steps, got 9",
        ),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


def test_the_last_schedule_says_that_it_needs_a_horizon() -> None:
    schedule: Schedule = sequence(A, B, at=[5])
    with pytest.raises(ValueError, match=r"^schedule 1 of sequence\(.*\): Linear\(\) needs a horizon"):
        schedule(0)
