"""Schedules as lines: their values at as many steps as a picture can show."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stepwell.pictures.charts import Point, Series
from stepwell.schedules import Schedule

BETWEEN = 1000  # how many steps from one point to the next are looked at, at most


def sampled(
    name: str, schedule: Schedule, steps: int, *, colour: int = 0, base: float = 1.0, points: int = 600
) -> Series:
    """The values from step 0 to `steps`, of a schedule whose lengths are steps; at every step, if they are few.

    If not, they are those of `points` steps that lie evenly, and of the lowest and the highest step between each two:
    a line through them covers what cycles that are shorter cover, and no peak is left out.
    """
    count = min(steps, points)
    places, looked_at = _evenly(steps, count), _evenly(steps, min(steps, BETWEEN * count))
    factors = _factors(schedule, looked_at)
    kept = set(places)
    for start, end in pairwise(bisect_left(looked_at, place) for place in places):
        between = factors[start : end + 1]
        kept |= {looked_at[start + int(between.argmin())], looked_at[start + int(between.argmax())]}
    found = [(float(step), base * float(schedule(step))) for step in sorted(kept)]
    return Series(name=name, colour=colour, points=found)


def thinned(points: Sequence[Point], most: int = 600) -> Sequence[Point]:
    """About so many of a line's points: the first and the last, and the lowest and the highest of each stretch, so that
    no peak is left out."""
    if len(points) <= most:
        return points
    heights = np.array([height for _, height in points])
    bounds = [round(index * len(points) / (most // 2)) for index in range(most // 2 + 1)]
    kept = {0, len(points) - 1}
    for start, end in pairwise(bounds):
        kept |= {start + int(heights[start:end].argmin()), start + int(heights[start:end].argmax())}
    return [points[index] for index in sorted(kept)]


def _evenly(steps: int, count: int) -> Sequence[int]:
    """From 0 to `steps`, in so many strides."""
    return range(steps + 1) if count == steps else sorted({round(index * steps / count) for index in range(count + 1)})


def _factors(schedule: Schedule, steps: Sequence[int]) -> np.ndarray[Any, Any]:
    """The factors at these steps: of all together, or one by one where a Python function takes no arrays."""
    try:
        return np.broadcast_to(np.asarray(schedule(np.asarray(steps)), dtype=float), (len(steps),))
    except Exception:
        return np.array([float(schedule(step)) for step in steps])
