"""The course of a scheduled value over a training: where it starts, how high it goes, where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from stepwell.schedules import Schedule

SAMPLES = 4096  # enough to see every peak: warm-ups of a thousandth of the horizon, cycles of a hundredth
# Without a horizon, how many times its lengths a schedule is followed: to see a whole cycle after all that is told by
# their rise alone, which is half of one.
BEYOND = 4


@dataclass(frozen=True)
class Course:
    """A value at step 0, at its highest, and at the horizon; without a horizon, where it comes to rest: None where it
    does not."""

    start: float
    peak: float
    end: float | None

    @property
    def is_constant(self) -> bool:
        return self.start == self.peak == self.end

    def __str__(self) -> str:
        if self.is_constant:
            return f"{self.peak:.3g}"
        return " → ".join("…" if value is None else f"{value:.3g}" for value in (self.start, self.peak, self.end))


def course(base: float, schedule: Schedule | None, horizon: int | None) -> Course | None:
    """How base · factor(step) goes; None where the schedule needs a horizon that is not known, or does not fit it."""
    if schedule is None:
        return Course(base, base, base)
    try:
        resolved = schedule.resolve(horizon)
    except ValueError:
        return None
    last = horizon if horizon is not None else reach(resolved, SAMPLES)
    steps, factors = _sampled(resolved, 0, last)
    ends = horizon or _own_horizon(resolved) or len(set(factors[len(factors) // 2 :])) == 1
    near, heights = steps, factors
    while len(near) <= near[-1] - near[0]:  # the peak itself may lie between two of the samples
        highest = heights.index(max(heights))
        near, heights = _sampled(resolved, near[max(highest - 1, 0)], near[min(highest + 1, len(near) - 1)])
    return Course(base * factors[0], base * max(heights), base * factors[-1] if ends else None)


def _sampled(schedule: Schedule, low: int, high: int) -> tuple[Sequence[int], list[float]]:
    """Steps from `low` to `high`, all where they are few, and their factors. They are Python's own, of any size."""
    strides = min(high - low, SAMPLES - 1)
    steps = [low + round(index * (high - low) / max(strides, 1)) for index in range(strides + 1)]
    return steps, [float(schedule(step)) for step in steps]


def reach(schedule: Schedule, least: int) -> int:
    """How many steps show what a schedule does where no horizon is known: its own horizon, or else at least so many."""
    return _own_horizon(schedule) or max(least, BEYOND * _lengths(schedule))


def _own_horizon(schedule: Schedule) -> int | None:
    return getattr(schedule, "horizon", None)


def _lengths(part: Any) -> int:
    """All whole numbers in a schedule, and in those that it is made of: nothing that has a length begins later."""
    if isinstance(part, Schedule):
        part = tuple(getattr(part, field.name) for field in fields(part))
    if isinstance(part, tuple):
        return sum(map(_lengths, part))
    return max(part, 0) if isinstance(part, int) else 0
