"""The course of a scheduled value over a training: where it starts, how high it goes, where it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepwell.schedules import Schedule

SAMPLES = 4096  # enough to see every peak: warm-ups of a thousandth of the horizon, cycles of a hundredth


@dataclass(frozen=True)
class Course:
    """A value at step 0, at its highest, and at the horizon."""

    start: float
    peak: float
    end: float

    @property
    def is_constant(self) -> bool:
        return self.start == self.peak == self.end

    def __str__(self) -> str:
        if self.is_constant:
            return f"{self.peak:.3g}"
        return " → ".join(f"{value:.3g}" for value in (self.start, self.peak, self.end))


def course(base: float, schedule: Schedule | None, horizon: int | None) -> Course | None:
    """How base · factor(step) goes; None where the schedule needs a horizon that is not known, or does not fit it."""
    if schedule is None:
        return Course(base, base, base)
    try:
        resolved = schedule.resolve(horizon)
    except ValueError:
        return None
    last = horizon if horizon is not None else getattr(resolved, "horizon", None) or SAMPLES
    steps = np.arange(last + 1) if last < SAMPLES else np.unique(np.linspace(0, last, SAMPLES).round().astype(int))
    factors = [float(resolved(int(step))) for step in steps]
    highest = int(np.argmax(factors))  # the peak itself may lie between two of the samples
    around = range(int(steps[max(highest - 1, 0)]), int(steps[min(highest + 1, len(steps) - 1)]) + 1)
    return Course(base * factors[0], base * max(float(resolved(step)) for step in around), base * factors[-1])
