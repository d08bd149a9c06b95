"""Schedules as lines: their values at as many steps as a picture can show."""

from __future__ import annotations

from stepwell.report.charts import Series
from stepwell.schedules import Schedule


def sampled(
    name: str, schedule: Schedule, steps: int, *, colour: int = 0, base: float = 1.0, points: int = 600
) -> Series:
    """The values from step 0 to `steps`, of a schedule whose lengths are steps; at every step, if they are few."""
    count = min(steps, points)
    places = sorted({round(index * steps / count) for index in range(count + 1)})
    return Series(name=name, colour=colour, points=[(float(step), base * float(schedule(step))) for step in places])
