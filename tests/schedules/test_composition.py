"""Schedules made of schedules, worked by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stepwell.schedules import (
    WSD,
    Constant,
    Cosine,
    Function,
    InverseSqrt,
    Linear,
    OneCycle,
    Schedule,
    clamp,
    product,
    repeat,
    sequence,
    shift,
    warmup,
)

HALF = math.sqrt(0.5)


def staircase(step: Any) -> float:
    return [1.0, 0.5][step >= 2]


def negative(step: Any) -> float:
    return -1.0


def counted(step: Any) -> int:
    return step


BY_HAND = [
    (warmup(Linear(), 2, horizon=6), [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]),
    (warmup(Linear(), 2, start=0.5, horizon=6), [0.5, 0.75, 1, 0.75]),
    (warmup(Constant(), 2, shape="polynomial", power=2), [0, 0.25, 1, 1]),
    (warmup(Constant(), 4, shape="cosine"), [0, (1 - HALF) / 2, 0.5, (1 + HALF) / 2, 1]),
    (warmup(Constant(), 4, shape="1-sqrt"), [0, 1 - math.sqrt(0.75), 1 - HALF, 0.5, 1]),
    (warmup(Constant(), 2, shape="exponential", start=0.01), [0.01, 0.1, 1, 1]),
    (warmup(Constant(), 0), [1, 1]),
    # It rises to where the schedule begins: 0.2.
    (warmup(OneCycle(rise=2, start=0.2, end=0, shape="linear"), 2, horizon=8), [0, 0.1, 0.2, 0.6, 1, 0.75]),
    (product(Linear(), Linear(), horizon=4), [1, 9 / 16, 1 / 4, 1 / 16, 0, 0]),
    (product(Linear(end=0.5), WSD(decay=2, shape="linear"), horizon=4), [1, 0.875, 0.75, 0.3125, 0]),
    (clamp(Linear(horizon=4), low=0.3, high=0.6), [0.6, 0.6, 0.5, 0.3, 0.3]),
    (clamp(Linear(horizon=4), low=0.3), [1, 0.75, 0.5, 0.3, 0.3]),
    (shift(Linear(), 2, horizon=6), [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
    (repeat(Linear(), 2, horizon=6), [1, 0.5, 1, 0.5, 1, 0.5, 0, 0]),
    (repeat(Linear(), 2, times=2), [1, 0.5, 1, 0.5, 0, 0, 0]),
    (repeat(Linear(), 0.5, horizon=4), [1, 0.5, 1, 0.5, 0, 0]),
    (repeat(Linear(), 4, horizon=6), [1, 0.75, 0.5, 0.25, 1, 0.75, 0.5, 0.5]),
    (sequence(warmup(Constant(), 2), Linear(), at=[3], horizon=5), [0, 0.5, 1, 1, 0.5, 0, 0]),
    # A horizon of its own, longer than its turn or its piece, is cut off there.
    (repeat(warmup(Linear(), 2, horizon=6), 3, horizon=6), [0, 0.5, 1, 0, 0.5, 1, 0.75]),
    (sequence(warmup(Constant(), 4, horizon=8), Linear(), at=[2], horizon=4), [0, 0.25, 1, 0.5, 0]),
    (sequence(shift(Linear(), 3, horizon=5), Linear(), at=[2], horizon=4), [1, 1, 1, 0.5, 0]),
    (sequence(product(warmup(Constant(), 4), Linear(), horizon=8), Linear(), at=[2], horizon=3), [0, 7 / 32, 1, 0]),
    (sequence(sequence(Linear(), Linear(), at=[4], horizon=8), Constant(), at=[2], horizon=3), [1, 0.75, 1]),
    # A warm-up that leaves nothing to the schedule stays where that begins.
    (warmup(InverseSqrt(timescale=3), 2, horizon=2), [0, 0.5, 1, 1, 1]),
    (Function(function=staircase), [1, 1, 0.5, 0.5]),
    (Function(function=staircase, horizon=1), [1, 1, 1, 1]),
    (product(Function(function=staircase), Linear(horizon=4)), [1, 0.75, 0.25, 0.125, 0]),
]


@pytest.mark.parametrize(("schedule", "expected"), BY_HAND, ids=[repr(schedule) for schedule, _ in BY_HAND])
def test_by_hand(schedule: Schedule, expected: list[float]) -> None:
    for one in (schedule, schedule.resolve()):
        assert [one(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-15)


def test_lengths_inside_are_shares_of_what_is_left_to_the_schedule() -> None:
    resolved = warmup(Cosine(warmup=0.5), 0.2).resolve(100)
    assert resolved == warmup(Cosine(horizon=80, warmup=40), 20)
    assert shift(Linear(warmup=0.5), 0.2).resolve(100) == shift(Linear(horizon=80, warmup=40), 20)
    assert repeat(Linear(warmup=0.5), 0.2).resolve(100) == repeat(Linear(horizon=20, warmup=10), 20, horizon=100)


def test_a_function_that_gives_what_is_no_factor_says_so() -> None:
    message = (
        f"Function(function={__name__}.negative) gave -1.0 at step 3; a factor must be a finite number of at least 0"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Function(function=negative)(3)
    assert type(Function(function=counted)(3)) is float


@pytest.mark.parametrize("value", ["0.5", None, [0.5]])
def test_a_function_that_gives_no_number_says_so(value: Any) -> None:
    message = f"gave {value!r} at step 3; a factor must be a number"
    with pytest.raises(TypeError, match=f"{re.escape(message)}$"):
        Function(function=lambda _: value)(3)


@pytest.mark.parametrize("value", [True, 1, np.float32(1), np.array(1.0), torch.tensor(1.0)])
def test_any_number_is_a_factor(value: Any) -> None:
    factor = Function(function=lambda _: value)(3)
    assert factor == 1.0
    assert type(factor) is float


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: warmup(0.5, 3), TypeError, "warmup takes a Schedule first, got 0.5"),
        (lambda: warmup(Constant(), 3, shape="exponential"), ValueError, "start must be above 0 for an exponential"),
        (
            lambda: warmup(Constant(), 3, power=2),
            ValueError,
            "power is for shape 'polynomial', got power 2.0 for shape",
        ),
        (
            lambda: warmup(Linear(), 10).resolve(10),
            ValueError,
            "length must be less than the horizon of 10 steps, got 10",
        ),
        (
            lambda: warmup(Linear(), 1.0),
            ValueError,
            "length is a share of the horizon when it is a float, strictly between 0 and 1, got 1.0; write 1 for steps",
        ),
        (lambda: warmup(Linear(), 3)(0), ValueError, "warmup(Linear(), length=3): Linear() needs a horizon"),
        (lambda: product(Linear()), ValueError, "a product needs at least 2 schedules, got 1"),
        (lambda: product(Linear(), 2), TypeError, "schedule 1 of a product must be a Schedule, got 2"),
        (lambda: clamp(Linear(), low=0.5, high=0.2), ValueError, "high must be at least low, which is 0.5, got 0.2"),
        (lambda: shift(Linear(), 10).resolve(10), ValueError, "by must be less than the horizon of 10 steps, got 10"),
        (lambda: repeat(Linear(), 0), ValueError, "every must be at least 1, got 0"),
        (lambda: Function(function=3), TypeError, "function must be a function of the step, got 3"),
    ],
)
def test_errors(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
