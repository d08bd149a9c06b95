"""A schedule for the steps that were not planned."""

from __future__ import annotations

from stepwell.schedules.composition import Warmup
from stepwell.schedules.fields import Length
from stepwell.schedules.schedule import Schedule, in_steps
from stepwell.schedules.sequence import sequence


def rewarmed(schedule: Schedule, so_far: Schedule, done: int, horizon: int, warmup: Length) -> Schedule:
    """As it was up to step `done`; then in a line back to the peak, and down again (Ibrahim et al. 2024, 2403.08763).

    Args:
        schedule: what is laid over the new steps, without its own warm-up.
        so_far: what the steps that are done were trained under, every length in steps.
        done: the present step, at least 0.
        horizon: the new horizon, more than `done`.
        warmup: steps to the peak, or a share of those that are left.

    Raises ValueError for a warm-up that leaves no step to the schedule.
    """
    left = horizon - done
    length = in_steps(warmup, left, schedule)
    if length >= left:
        raise ValueError(f"warmup must be less than the {left} steps that are left, got {warmup}")
    rest = schedule.without_warmup().stretched(left - length).resolve(left - length)
    peak = rest(0)
    again = Warmup(schedule=rest, length=length, start=so_far(done) / peak if peak else 0.0)
    return sequence(so_far, again, at=[done], cut=True).resolve() if done else again.resolve()
