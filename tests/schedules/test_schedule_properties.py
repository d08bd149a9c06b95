"""What holds for every schedule, whatever its lengths: it never jumps, never goes below 0, and holds past its end."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.schedules import Constant, Cosine, Linear, Schedule, sequence

LENGTHS = st.integers(0, 60) | st.floats(0.01, 0.9)
ENDS = st.floats(0, 2)
DECAYS = st.builds(Linear, warmup=LENGTHS, end=ENDS) | st.builds(Cosine, warmup=LENGTHS, end=ENDS)
SHAPES = st.builds(Constant, warmup=LENGTHS) | DECAYS
HORIZONS = st.integers(60, 400)


@st.composite
def sequences(draw: st.DrawFn) -> Schedule:
    shapes = st.sampled_from([Constant, Linear, Cosine])
    pieces = draw(
        st.lists(
            st.builds(lambda shape, share: shape(warmup=share), shapes, st.floats(0.01, 0.9)), min_size=2, max_size=4
        )
    )
    at = draw(st.lists(st.integers(1, 59), min_size=len(pieces) - 1, max_size=len(pieces) - 1, unique=True))
    return sequence(*pieces, at=sorted(at))


@settings(deadline=None)
@given(SHAPES | sequences(), HORIZONS)
def test_never_negative_and_between_its_extremes(schedule: Schedule, horizon: int) -> None:
    resolved = schedule.resolve(horizon)
    top = max(1.0, getattr(schedule, "end", 0.0))
    for step in range(-2, horizon + 5):
        assert 0 <= resolved(step) <= top * (1 + 1e-15)


@settings(deadline=None)
@given(SHAPES | sequences(), HORIZONS, st.integers(0, 10**12))
def test_it_holds_past_the_end(schedule: Schedule, horizon: int, beyond: int) -> None:
    resolved = schedule.resolve(horizon)
    assert resolved(horizon + beyond) == resolved(horizon)


@settings(deadline=None)
@given(DECAYS, HORIZONS)
def test_a_decay_meets_one_and_its_end_to_the_bit(schedule: Linear | Cosine, horizon: int) -> None:
    resolved = schedule.resolve(horizon)
    assert isinstance(resolved.warmup, int)
    if resolved.warmup < horizon:
        assert resolved(resolved.warmup) == 1.0
    assert resolved(horizon) == schedule.end


@settings(deadline=None)
@given(DECAYS, HORIZONS)
def test_it_does_not_jump(schedule: Linear | Cosine, horizon: int) -> None:
    resolved = schedule.resolve(horizon)
    assert isinstance(resolved.warmup, int)
    # The steepest slope of half a cosine is π/2 times that of the line. (A warm-up that fills the horizon ends in a
    # jump: it leaves the decay no step.)
    rise = 1 / max(resolved.warmup, 1)
    fall = math.pi / 2 * abs(1 - schedule.end) / max(horizon - resolved.warmup, 1)
    if resolved.warmup < horizon:
        for step in range(horizon + 3):
            limit = rise if step < resolved.warmup else fall
            assert abs(resolved(step + 1) - resolved(step)) <= limit + 1e-12


@settings(deadline=None)
@given(st.integers(0, 50), st.sampled_from([Linear, Cosine]), ENDS, st.integers(60, 99))
def test_a_sequence_is_continuous_where_one_starts_at_the_end_of_the_other(
    warmup: int, decay: type[Linear] | type[Cosine], end: float, start: int
) -> None:
    schedule = sequence(Constant(warmup=warmup), decay(end=end), at=[start], horizon=200)
    assert schedule(start - 1) == schedule(start) == 1.0
    assert abs(schedule(start + 1) - 1.0) <= math.pi / 2 * abs(1 - end) / (200 - start) + 1e-12


@settings(deadline=None)
@given(DECAYS, HORIZONS)
def test_a_decay_goes_one_way(schedule: Linear | Cosine, horizon: int) -> None:
    resolved = schedule.resolve(horizon)
    assert isinstance(resolved.warmup, int)
    after = [resolved(step) for step in range(resolved.warmup, horizon + 3)]
    assert all((b - a) * (schedule.end - 1) >= -1e-15 for a, b in pairwise(after))
