"""The ways from one value to another: how much is left of a descent, and how much is gained of a rise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from stepwell.algebra import cos, sqrt, where

WAYS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1 - sqrt(progress),
}
"""What is left of a descent from 1 to 0, by its name, where progress goes from 0 to 1."""


def descent(way: str, progress: Any) -> Any:
    """What is left: 1 at progress 0, and 0 at progress 1."""
    return WAYS[way](progress)


def rise(way: str, progress: Any) -> Any:
    """What is gained, the descent seen backwards: 0 at progress 0, and 1 at progress 1."""
    return WAYS[way](1 - progress)


def between(start: Any, end: Any, left: Any) -> Any:
    """From `start`, where everything is left (1), to `end`, where nothing is (0), exact at both."""
    return left * start + (1 - left) * end


def warmed_up(step: Any, warmup: int, factor: Any) -> Any:
    """t / warmup while t < warmup: from 0 at step 0 to 1 at step `warmup`, where `factor` takes over."""
    return where(step < warmup, step / max(warmup, 1), factor)
