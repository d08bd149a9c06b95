"""What is true of every schedule, drawn from `cases`: no kind has a copy of these tests."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.cases import CASES, HORIZONS, LENGTHS, SHARES, any_schedule, reciprocal
from stepwell import schedules
from stepwell.algebra import maximum
from stepwell.scheduler import Scheduler
from stepwell.schedules import (
    WSD,
    Constant,
    Cosine,
    Knee,
    Linear,
    OneCycle,
    Schedule,
    Trapezoid,
    from_dict,
    from_toml,
    parse,
    sequence,
    shift,
    to_dict,
    to_toml,
    warmup,
)

NAMES = pytest.mark.parametrize("name", sorted(CASES))
FUNCTIONS = {f"{reciprocal.__module__}.{reciprocal.__qualname__}": reciprocal}


def check(name: str, lengths: st.SearchStrategy[Any] = LENGTHS) -> Any:
    """Draws this kind, and a horizon to resolve it over."""
    return lambda test: settings(deadline=None, max_examples=25)(given(CASES[name].draw(lengths), HORIZONS)(test))()


def test_every_schedule_is_entered() -> None:
    public = [getattr(schedules, name) for name in schedules.__all__]
    kinds = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, Schedule)}
    assert kinds - {"Schedule"} == set(CASES)


@NAMES
def test_it_is_finite_and_never_negative(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        resolved = schedule.resolve(horizon)
        assert all(0 <= resolved(step) <= 1 + 1e-12 for step in range(-2, horizon + 5))


@NAMES
def test_it_holds_past_the_horizon_and_before_step_0(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        resolved = schedule.resolve(horizon)
        assert {resolved(horizon + beyond) for beyond in (0, 1, 2, 7, 10**6, 10**12)} == {resolved(horizon)}
        assert resolved(-5) == resolved(0)


@NAMES
def test_it_is_continuous_also_at_its_joints(name: str) -> None:
    if not CASES[name].continuous:
        pytest.skip("it jumps, and should")

    @settings(deadline=None, max_examples=10)
    @given(CASES[name].draw(SHARES))
    def holds(schedule: Schedule) -> None:
        # Over so many steps, what is continuous moves by next to nothing from one to the next; 1 − √p moves most, by
        # √(1 / (0.02 · 200,000)) = 0.016 at its start, and a jump would move as far as ever.
        factors = schedule.resolve(200_000)(np.arange(200_003))
        assert np.abs(np.diff(factors)).max() < 0.017

    holds()


@NAMES
def test_every_number_gives_the_same(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        resolved = schedule.resolve(horizon)
        steps = list(range(horizon + 5))
        one_by_one = [resolved(step) for step in steps]
        # The specification is `factor` itself, in Python's numbers; an int takes a shorter way through the tracer.
        assert one_by_one == pytest.approx([resolved.factor(maximum(step, 0)) for step in steps], rel=1e-14, abs=1e-300)
        assert resolved(np.array(steps)).tolist() == pytest.approx(one_by_one, rel=1e-12, abs=1e-14)
        assert resolved(torch.tensor(steps, dtype=torch.float64)).tolist() == pytest.approx(
            one_by_one, rel=1e-12, abs=1e-14
        )


@NAMES
def test_it_prints_as_the_code_that_makes_it(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        for one in (schedule, schedule.resolve(horizon)):
            assert parse(repr(one), functions=FUNCTIONS) == one
            if name != "Function":
                assert eval(repr(one), vars(schedules)) == one


@NAMES
def test_it_goes_to_data_and_back(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        for one in (schedule, schedule.resolve(horizon)):
            assert from_dict(to_dict(one), functions=FUNCTIONS) == one
            assert from_dict(json.loads(json.dumps(to_dict(one))), functions=FUNCTIONS) == one
            assert from_toml(to_toml(one), functions=FUNCTIONS) == one


@NAMES
def test_it_is_a_value(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        resolved = schedule.resolve(horizon)
        value = resolved(7)
        for twin in (pickle.loads(pickle.dumps(resolved)), copy.deepcopy(resolved)):
            assert twin == resolved
            assert hash(twin) == hash(resolved)
            assert twin(7) == value


@NAMES
def test_resolving_twice_is_resolving_once(name: str) -> None:
    @check(name)
    def _(schedule: Schedule, horizon: int) -> None:
        resolved = schedule.resolve(horizon)
        assert resolved.resolve() == resolved.resolve(horizon) == resolved.resolve(horizon + 50) == resolved


FILLING = {
    "WSD": lambda share: WSD(warmup=share, decay=1 - share),
    "Trapezoid": lambda share: Trapezoid(warmup=share, decay=1 - share),
    "Knee": lambda share: Knee(warmup=share, explore=1 - share),
    "OneCycle": lambda share: OneCycle(rise=share / 2, three_phase=True),
    "sequence": lambda share: sequence(Constant(), Linear(), at=[share]),
    "warmup": lambda share: warmup(Cosine(), share),
    "shift": lambda share: shift(Cosine(), share),
}


@pytest.mark.parametrize("name", FILLING)
def test_shares_that_fit_in_the_horizon_fit_in_every_horizon(name: str) -> None:
    for share in (0.1, 0.25, 0.3, 0.5, 0.8, 0.95, 0.999):
        schedule = FILLING[name](share)
        for horizon in range(1, 301):
            resolved = schedule.resolve(horizon)
            assert resolved.resolve() == resolved.resolve(horizon) == resolved
            assert all(0 <= resolved(step) <= 1 for step in (0, horizon // 2, horizon))


@NAMES
def test_a_resume_at_every_step_is_the_uninterrupted_run(name: str) -> None:
    def scheduler(schedule: Schedule, horizon: int) -> Scheduler:
        return Scheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3), lr=schedule, horizon=horizon)

    @settings(deadline=None, max_examples=4)
    @given(CASES[name].draw(LENGTHS), HORIZONS)
    def holds(schedule: Schedule, horizon: int) -> None:
        whole = scheduler(schedule, horizon)
        rates, states = [], []
        for _ in range(horizon + 3):
            rates += whole.get_last_lr()
            states.append(json.loads(json.dumps(whole.state_dict())))
            whole.step()
        for step, state in enumerate(states):
            resumed = scheduler(schedule, horizon)
            resumed.load_state_dict(state)
            assert resumed.get_last_lr() == [rates[step]]
            if step + 1 < len(rates):
                resumed.step()
                assert resumed.get_last_lr() == [rates[step + 1]]

    holds()


@settings(deadline=None, max_examples=30)
@given(any_schedule(), HORIZONS)
def test_under_jit(schedule: Schedule, horizon: int) -> None:
    jax = pytest.importorskip("jax")
    if type(schedule) is schedules.CosineRestarts:
        return  # in float32 a restart may come a step early or late, and there it jumps
    resolved = schedule.resolve(horizon)
    steps = np.arange(horizon + 5)
    compiled = jax.jit(resolved)(jax.numpy.array(steps))
    np.testing.assert_allclose(np.asarray(compiled), resolved(steps), rtol=2e-4, atol=2e-5)


@settings(deadline=None)
@given(
    st.builds(Linear, warmup=LENGTHS, end=st.floats(0, 2)) | st.builds(Cosine, warmup=LENGTHS, end=st.floats(0, 2)),
    HORIZONS,
)
def test_a_decay_meets_one_and_its_end_to_the_bit_and_goes_one_way(schedule: Any, horizon: int) -> None:
    resolved = schedule.resolve(horizon)
    after = [resolved(step) for step in range(resolved.warmup, horizon + 3)]
    assert (after[0], after[-1]) == (1.0, schedule.end)
    assert all((b - a) * (schedule.end - 1) >= -1e-15 for a, b in itertools.pairwise(after))
    fall = math.pi / 2 * abs(1 - schedule.end) / (horizon - resolved.warmup)  # half a cosine is π/2 times the line
    assert all(abs(b - a) <= fall + 1e-12 for a, b in itertools.pairwise(after))
