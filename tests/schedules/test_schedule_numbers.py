"""A schedule evaluates on every kind of number: drawn from an array, run under jit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stepwell.schedules import Constant, Cosine, CosineRestarts, InverseSqrt, Linear, Schedule, repeat, sequence

SCHEDULES = [
    Constant(),
    Constant(warmup=10),
    Linear(horizon=100),
    Linear(horizon=100, warmup=0.1, end=0.3),
    Cosine(horizon=100, warmup=10, end=0.1),
    Cosine(horizon=100, warmup=100),
    sequence(Constant(warmup=10), Cosine(), Linear(), at=[30, 0.6], horizon=100),
]
STEPS = range(-2, 130)


def one_by_one(schedule: Schedule) -> list[float]:
    return [schedule(step) for step in STEPS]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_step_gives_a_float(schedule: Schedule) -> None:
    assert {type(factor) for factor in one_by_one(schedule)} == {float}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64])
def test_numpy(schedule: Schedule, dtype: type) -> None:
    factors = schedule(np.array(STEPS, dtype=dtype))
    assert factors.shape == (len(STEPS),)
    assert factors.dtype == np.float64
    assert factors.tolist() == pytest.approx(one_by_one(schedule), abs=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float64, np.array])
def test_one_number_of_numpy(schedule: Schedule, kind: Any) -> None:
    for step in (0, 5, 10, 50, 99, 100, 129):
        factor = schedule(kind(step))
        assert np.ndim(factor) == 0
        assert factor == pytest.approx(schedule(step), abs=1e-15)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_few_bits_hold_no_horizon(dtype: type) -> None:
    # 127 − (−1) and 10,000 are more than 8 bits hold.
    steps = np.arange(100).astype(dtype)
    for schedule in (InverseSqrt(), Linear(horizon=10_000), sequence(Constant(), Cosine(), at=[90], horizon=200)):
        assert schedule(steps).tolist() == pytest.approx([schedule(step) for step in range(100)], rel=1e-12)


def test_numpy_without_a_sign() -> None:
    steps = np.arange(130, dtype=np.uint32)
    assert Linear(horizon=100)(steps).tolist() == [Linear(horizon=100)(step) for step in range(130)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.int64, 1e-6), (torch.float64, 1e-15)])
def test_torch(schedule: Schedule, dtype: torch.dtype, tolerance: float) -> None:
    factors = schedule(torch.tensor(STEPS, dtype=dtype))
    assert factors.shape == (len(STEPS),)
    assert factors.tolist() == pytest.approx(one_by_one(schedule), abs=tolerance)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_jax_under_jit(schedule: Schedule) -> None:
    jax = pytest.importorskip("jax")
    compiled = jax.jit(schedule)
    assert [float(compiled(step)) for step in (0, 5, 10, 50, 99, 100, 129)] == pytest.approx(
        [schedule(step) for step in (0, 5, 10, 50, 99, 100, 129)], abs=1e-6
    )
    assert compiled(jax.numpy.array(STEPS)).tolist() == pytest.approx(one_by_one(schedule), abs=1e-6)


@pytest.mark.parametrize("length", [41, 47, 49])  # 1/length, rounded to a float32, is below it for 41 and 47
@pytest.mark.parametrize(
    "make",
    [
        lambda length: repeat(Linear(), length),
        lambda length: CosineRestarts(first=length),
        lambda length: CosineRestarts(cycles=3, horizon=3 * length),
    ],
)
def test_jax_restarts_at_the_step_that_a_restart_falls_on(make: Callable[[int], Schedule], length: int) -> None:
    jax = pytest.importorskip("jax")
    compiled = jax.jit(make(length))
    assert [float(compiled(turn * length)) for turn in range(3)] == pytest.approx([1.0] * 3, abs=1e-6)


def test_jax_restarts_where_cycles_grow() -> None:
    jax = pytest.importorskip("jax")
    for schedule in (CosineRestarts(first=47, growth=2), CosineRestarts(cycles=3, growth=2, horizon=7 * 47)):
        compiled = jax.jit(schedule)
        assert [float(compiled(47 * turns)) for turns in (0, 1, 3)] == pytest.approx([1.0] * 3, abs=1e-6)


def test_jax_takes_a_schedule_as_a_static_argument() -> None:
    jax = pytest.importorskip("jax")
    factor = jax.jit(lambda schedule, step: schedule(step), static_argnums=0)
    assert float(factor(Linear(horizon=4), 1)) == 0.75


def test_optax_takes_a_schedule() -> None:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    transformation = optax.scale_by_schedule(Linear(horizon=4))
    state = transformation.init({"w": jax.numpy.ones(2)})
    seen = []
    for _ in range(6):
        update, state = transformation.update({"w": jax.numpy.ones(2)}, state)
        seen.append(update["w"].tolist())
    assert seen == [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25], [0.0, 0.0], [0.0, 0.0]]
