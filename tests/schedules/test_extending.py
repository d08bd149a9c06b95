"""A longer horizon than was planned: stretched, held, or warmed up anew."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.scheduler import Scheduler
from stepwell.schedules import (
    WSD,
    Constant,
    Cosine,
    Cyclic,
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


def sgd(rate: float, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=rate, **options)


def rates(scheduler: Scheduler, steps: int) -> list[float]:
    """The rate of each of so many steps, from the present one on."""
    seen = []
    for _ in range(steps):
        seen += scheduler.get_last_lr()
        scheduler.step()
    return seen


def risen(step: int) -> float:
    return min(step / 5, 1.0)


def test_stretch_is_as_if_the_horizon_had_been_known() -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(warmup=0.2), weight_decay=Linear(horizon=5), horizon=10)
    scheduler.step(6)
    assert scheduler.extend(20, how="stretch") == {"lr": [14 / 16], "weight_decay": [0.0]}
    assert scheduler.schedules == {"lr": Linear(horizon=20, warmup=4), "weight_decay": Linear(horizon=20)}
    assert scheduler.horizon == 20


def line(steps: int) -> list[float]:
    return [1 - t / steps for t in range(steps + 1)]


def cosine(steps: int) -> list[float]:
    return [(1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps + 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (product(Cosine(horizon=10), Constant()), cosine(20)),
        (clamp(product(Cosine(horizon=10), Constant()), low=0.1), [max(factor, 0.1) for factor in cosine(20)]),
        (warmup(Linear(horizon=8), 2), [0, 0.5, *line(18)]),
        (shift(Linear(horizon=8), 2), [1, 1, *line(18)]),
        # The first line has an end before the horizon, and keeps it; so has each turn of a repetition.
        (sequence(Linear(horizon=2, end=0.5), Linear(horizon=5), at=[5]), [1, 0.75, 0.5, 0.5, 0.5, *line(15)]),
        (repeat(Linear(horizon=2), 5), [1, 0.5, 0, 0, 0] * 4 + [0]),
    ],
)
def test_stretch_takes_along_what_ended_with_the_horizon(schedule: Schedule, expected: list[float]) -> None:
    scheduler = Scheduler(sgd(1.0), lr=schedule, horizon=10)
    scheduler.extend(20, how="stretch")
    assert rates(scheduler, 21) == pytest.approx(expected, abs=1e-12)


def test_hold_stays_at_the_end() -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(end=0.25), horizon=4)
    scheduler.step(4)
    scheduler.extend(100, how="hold")
    scheduler.step(60)
    assert scheduler.get_last_lr() == [0.25]


def test_rewarm_goes_from_where_it_is_to_the_peak_and_down_again() -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(warmup=2, end=0.5), horizon=4)
    scheduler.step(4)
    assert scheduler.extend(12, how="rewarm", warmup=0.25) == {"lr": [0.5]}
    # Two of the eight new steps up, six down.
    expected = [0.5, 0.75] + [1 - 0.5 * t / 6 for t in range(7)] + [0.5, 0.5]
    assert rates(scheduler, 11) == pytest.approx(expected)
    assert scheduler.schedules["lr"](3) == 0.75  # what was, has been


@pytest.mark.parametrize("left", [1, 2, 40])
def test_rewarm_has_a_step_for_its_way_up_where_two_are_left(left: int) -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(end=0.5), horizon=4)
    scheduler.step(4)
    scheduler.extend(4 + left, how="rewarm")
    assert rates(scheduler, 2) == [0.5 if left > 1 else 1.0, 1.0 if left > 1 else 0.5]


@settings(deadline=None)
@given(
    st.sampled_from(
        [Linear(), Cosine(warmup=0.1, end=0.1), WSD(warmup=5), InverseSqrt(warmup=4), OneCycle(), Constant()]
    )
    | st.just(warmup(Cosine(), 0.1, shape="cosine")),
    st.integers(40, 60),
    st.integers(0, 80),
)
def test_rewarm_never_jumps_and_resumes(schedule: Schedule, horizon: int, at: int) -> None:
    scheduler = Scheduler(sgd(0.3), lr=schedule, horizon=horizon)
    scheduler.step(at)
    (before,) = scheduler.get_last_lr()
    scheduler.extend(at + 100, how="rewarm", warmup=10)
    assert scheduler.get_last_lr() == pytest.approx([before], rel=1e-12)
    state = scheduler.state_dict()
    other = Scheduler(sgd(0.3), lr=schedule, horizon=horizon)
    other.load_state_dict(state, schedule="saved")
    for _ in range(105):
        assert other.get_last_lr() == scheduler.get_last_lr()
        other.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("schedule", "down"),
    [
        (warmup(Cosine(), 5), cosine(20)),
        (sequence(warmup(Constant(), 5), Linear(), at=[0.8]), [1.0] * 16 + line(4)),
        (product(Constant(warmup=5), Cosine(warmup=3)), cosine(20)),
        (clamp(Cosine(warmup=5), low=0.1), [max(factor, 0.1) for factor in cosine(20)]),
        (shift(Cosine(warmup=5), 2), [1.0, 1.0, *cosine(18)]),
    ],
)
def test_rewarm_leaves_out_the_warm_up_inside_a_composition(schedule: Schedule, down: list[float]) -> None:
    scheduler = Scheduler(sgd(1.0), lr=schedule, horizon=20)
    scheduler.step(15)
    (now,) = scheduler.get_last_lr()
    scheduler.extend(40, how="rewarm", warmup=5)
    expected = [now + (1 - now) * t / 5 for t in range(5)] + down
    assert rates(scheduler, 26) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "at"),
    [(Function(function=risen), 7), (repeat(Cosine(warmup=5), 10), 7), (Cyclic(up=5, low=0.0), 10)],  # one at its foot
)
def test_rewarm_to_a_schedule_that_begins_at_0_is_an_error(schedule: Schedule, at: int) -> None:
    scheduler = Scheduler(sgd(1.0), lr=schedule, horizon=20)
    scheduler.step(at)
    message = f"how='rewarm' goes to where the schedule begins, and {schedule!r} begins at 0: how='stretch' and"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        scheduler.extend(40, how="rewarm", warmup=5)
    assert scheduler.horizon == 20


def test_a_rewarm_of_no_steps_goes_on_from_the_foot_of_a_cycle() -> None:
    scheduler = Scheduler(sgd(1.0), lr=Cyclic(up=2, low=0.0), horizon=4)
    scheduler.step(4)
    scheduler.extend(8, how="rewarm", warmup=0)
    assert rates(scheduler, 5) == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_rewarm_to_a_rise_that_is_part_of_the_shape_goes_to_where_it_begins() -> None:
    scheduler = Scheduler(sgd(1.0), lr=OneCycle(rise=2, start=0.25, shape="linear"), horizon=4)
    scheduler.step(2)
    scheduler.extend(8, how="rewarm", warmup=2)
    assert rates(scheduler, 5) == pytest.approx([1.0, 0.625, 0.25, 0.625, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 5, "how": "stretch"}, "horizon must be more than the 5 steps that are done, got 5"),
        ({"horizon": 9, "how": "strech"}, "how must be 'stretch', 'hold' or 'rewarm', got 'strech'"),
        ({"horizon": 9, "how": "hold", "warmup": 2}, "how='hold' has no warm-up, got warmup=2; how='rewarm' has one"),
        (
            {"horizon": 9, "how": "stretch", "warmup": 0.1},
            "how='stretch' has no warm-up, got warmup=0.1; how='rewarm' has one",
        ),
        ({"horizon": 8, "how": "rewarm", "warmup": 3}, "warmup must be less than the 3 steps that are left, got 3"),
    ],
)
def test_extensions_that_are_wrong_change_nothing(arguments: Any, message: str) -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(), horizon=6)
    scheduler.step(5)
    before = copy.deepcopy(scheduler.state_dict())
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scheduler.extend(**arguments)
    assert scheduler.state_dict() == before
