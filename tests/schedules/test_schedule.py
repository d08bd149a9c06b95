"""What is true of every schedule: lengths, horizon, errors, value semantics."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from stepwell.algebra import sqrt
from stepwell.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    InverseSqrt,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Power,
    Schedule,
    Step,
    repeat,
    sequence,
)

SHAPES = [Constant, Linear, Cosine]

EXAMPLES = [
    Constant(),
    Constant(warmup=0.1),
    Linear(horizon=50),
    Linear(warmup=7, end=0.25),
    Cosine(horizon=1000, warmup=0.1, end=0.1),
    Cosine(),
    sequence(Constant(warmup=5), Linear(), at=[0.8]),
    sequence(Linear(end=0.5), Constant(), Cosine(horizon=9), at=[10, 0.5], horizon=100),
]


# Lengths


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("share", "horizon", "steps"),
    [
        (0.1, 1000, 100),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (0.5, 3, 2),  # halves go to the even neighbour
        (0.5, 5, 2),
        (0.001, 10, 0),
        (0.999, 10, 10),
    ],
)
def test_a_share_is_rounded_to_the_nearest_step(shape: Any, share: float, horizon: int, steps: int) -> None:
    resolved = shape(warmup=share).resolve(horizon)
    assert resolved.warmup == steps
    assert type(resolved.warmup) is int


@pytest.mark.parametrize(
    ("schedule", "horizon", "expected"),
    [
        (OneCycle(), 1, OneCycle(horizon=1, rise=1)),
        (Power(), 3, Power(horizon=3, flat=1)),
        (Step(every=0.01), 10, Step(horizon=10, every=1)),
        (MultiStep(at=[0.3, 0.6, 0.8]), 1, MultiStep(horizon=1, at=[1, 1, 1])),
        (Noam(warmup=0.01), 10, Noam(horizon=10, warmup=1)),
        (InverseSqrt(timescale=0.01), 10, InverseSqrt(horizon=10, timescale=1)),
        (CosineRestarts(first=0.01), 10, CosineRestarts(horizon=10, first=1)),
        (Cyclic(up=0.01, down=0.01), 10, Cyclic(horizon=10, up=1, down=1)),
        (repeat(Linear(), 0.01), 10, repeat(Linear(horizon=1), 1, horizon=10)),
        (sequence(Linear(), Linear(), at=[0.01]), 10, sequence(Linear(horizon=1), Linear(horizon=9), at=[1])),
    ],
)
def test_a_share_is_one_step_at_least_where_there_must_be_one(
    schedule: Schedule, horizon: int, expected: Schedule
) -> None:
    assert schedule.resolve(horizon) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", ["0.1", True, False, None, [1], np.float32(0.1), 1j])
def test_a_length_of_the_wrong_type_is_an_error(shape: Any, value: Any) -> None:
    message = f"warmup must be steps (int) or a share of the horizon (float), got {value!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        shape(warmup=value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1.0, "; write 1 for steps"),
        (0.0, "; write 0 for steps"),
        (500.0, "; write 500 for steps"),
        (1.5, ""),
        (-0.1, ""),
        (-3.0, ""),
        (float("nan"), ""),
        (float("inf"), ""),
    ],
)
def test_a_float_that_is_no_share_is_an_error(shape: Any, value: float, hint: str) -> None:
    message = f"warmup is a share of the horizon when it is a float, strictly between 0 and 1, got {value!r}{hint}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        shape(warmup=value)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_negative_length_is_an_error(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"^warmup must be at least 0, got -5$"):
        shape(warmup=-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_numbers_of_numpy_are_steps(shape: Any) -> None:
    made = shape(warmup=np.int64(5))
    assert made == shape(warmup=5)
    assert type(made.warmup) is int


# The horizon


@pytest.mark.parametrize("horizon", [0, -1])
@pytest.mark.parametrize("make", [lambda h: Linear(horizon=h), lambda h: Constant().resolve(h), Cosine().resolve])
def test_a_horizon_below_one_is_an_error(make: Any, horizon: int) -> None:
    with pytest.raises(ValueError, match=rf"^horizon must be at least 1 step, got {horizon}$"):
        make(horizon)


@pytest.mark.parametrize("horizon", [1000.0, "1000", True])
@pytest.mark.parametrize("make", [lambda h: Linear(horizon=h), lambda h: Constant().resolve(h), Cosine().resolve])
def test_a_horizon_that_is_no_whole_number_is_an_error(make: Any, horizon: Any) -> None:
    with pytest.raises(TypeError, match=rf"^horizon must be a whole number of steps \(int\), got {horizon!r}$"):
        make(horizon)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(horizon=100, warmup=101),
        lambda: Cosine(warmup=101).resolve(100),
        lambda: Constant(warmup=101).resolve(100),
    ],
)
def test_a_warmup_longer_than_the_horizon_is_an_error(make: Any) -> None:
    with pytest.raises(ValueError, match=r"^warmup must be at most the horizon of 100 steps, got 101$"):
        make()


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(warmup=10), Constant(warmup=0.1), sequence(Constant(), Linear(horizon=5), at=[0.5])]
)
@pytest.mark.parametrize("use", [lambda schedule: schedule(0), lambda schedule: schedule.resolve()])
def test_a_horizon_that_is_needed_and_not_known_is_an_error(schedule: Schedule, use: Any) -> None:
    message = (
        f"{schedule!r} needs a horizon, the total number of optimizer steps: give horizon= to the schedule or to its "
        "scheduler, or call resolve(horizon)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        use(schedule)


def test_a_horizon_of_its_own_comes_before_the_one_that_is_given() -> None:
    assert Cosine(horizon=50, warmup=0.1).resolve(1000) == Cosine(horizon=50, warmup=5)
    assert Linear(warmup=0.1).resolve(1000) == Linear(horizon=1000, warmup=100)


def test_a_constant_has_no_end_and_keeps_no_horizon() -> None:
    assert Constant(warmup=0.1).resolve(1000) == Constant(warmup=100)


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_resolving_twice_is_resolving_once(schedule: Schedule) -> None:
    resolved = schedule.resolve(1000)
    assert resolved.resolve() == resolved
    assert resolved.resolve(1000) == resolved
    assert resolved.resolve(2000) == resolved


def test_a_schedule_that_knows_its_horizon_can_be_called_before_it_is_resolved() -> None:
    schedule = Linear(horizon=100, warmup=0.2)
    assert schedule(10) == 0.5  # step 10 of a warm-up of 20
    assert schedule(60) == 0.5  # half of the 80 steps that follow
    assert schedule.warmup == 0.2


def test_a_step_before_the_first_gives_the_first() -> None:
    assert Linear(horizon=100, warmup=20)(-3) == 0.0
    assert Linear(horizon=100)(-3) == 1.0


# Names


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(floor=0.1), "unknown argument 'floor' for Cosine; it takes horizon, warmup, end, waves"),
        (
            lambda: Linear(warmpu=10),
            "unknown argument 'warmpu' for Linear; it takes horizon, warmup, end (did you mean 'warmup'?)",
        ),
        (lambda: Constant(end=0.1), "unknown argument 'end' for Constant; it takes warmup"),
    ],
)
def test_an_unknown_argument_is_an_error(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make()


def test_arguments_go_by_name() -> None:
    with pytest.raises(TypeError, match="positional"):
        Cosine(1000)  # type: ignore[misc]


# Values


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_a_schedule_prints_as_the_code_that_makes_it(schedule: Schedule) -> None:
    assert eval(repr(schedule)) == schedule
    assert repr(eval(repr(schedule))) == repr(schedule)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Constant(), "Constant()"),
        (Cosine(warmup=0.1, horizon=1000), "Cosine(horizon=1000, warmup=0.1)"),
        (Linear(end=0), "Linear()"),
        (
            sequence(Constant(warmup=5), Linear(), at=(0.8,), horizon=100),
            "sequence(Constant(warmup=5), Linear(), at=[0.8], horizon=100)",
        ),
    ],
)
def test_what_stands_at_its_default_is_not_printed(schedule: Schedule, text: str) -> None:
    assert repr(schedule) == text


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_schedules_compare_hash_copy_and_pickle_by_value(schedule: Schedule) -> None:
    values = [schedule.resolve(100)(step) for step in range(120)]
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), dataclasses.replace(schedule)):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert [twin.resolve(100)(step) for step in range(120)] == values


def test_a_schedule_that_was_called_pickles_too() -> None:
    schedule = Cosine(horizon=100, warmup=0.1)
    value = schedule(33)
    assert pickle.loads(pickle.dumps(schedule))(33) == value


def test_schedules_that_differ_are_not_equal() -> None:
    assert len({Linear(), Cosine(), Constant(), Linear(end=0.1), Linear(warmup=1), Linear(horizon=1)}) == 6


def test_schedules_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cosine().end = 0.5  # type: ignore[misc]


# A schedule of one's own


@dataclass(frozen=True, kw_only=True)
class MyInverseSqrt(Schedule):
    """√(timescale / (t + timescale))."""

    timescale: int = 16

    def factor(self, step: Any) -> Any:
        return sqrt(self.timescale / (step + self.timescale))


def test_a_schedule_of_ones_own_needs_a_factor_only() -> None:
    schedule = MyInverseSqrt(timescale=4)
    assert schedule(0) == 1.0
    assert schedule(12) == 0.5
    assert schedule(np.array([0, 12])).tolist() == [1.0, 0.5]
    assert schedule.resolve(1000) == schedule
    assert sequence(Constant(), MyInverseSqrt(timescale=4), at=[10])(22) == 0.5


def test_a_schedule_without_a_factor_says_so() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Empty(Schedule):
        pass

    with pytest.raises(NotImplementedError, match=r"^Empty does not define factor\(\)$"):
        Empty()(0)
    with pytest.raises(TypeError, match=r"^unknown argument 'warmup' for Empty; it takes none$"):
        Empty(warmup=3)
