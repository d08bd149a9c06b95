"""Constant, linear and cosine schedules, each after a linear warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

from stepwell.algebra import cos, minimum, where
from stepwell.schedules.schedule import (
    Length,
    Schedule,
    check_factor,
    check_fits,
    check_horizon,
    check_length,
    in_steps,
    required,
)


def warmed_up(step: Any, warmup: Length, factor: Any) -> Any:
    """t / warmup while t < warmup: from 0 at step 0 to 1 at step `warmup`, where `factor` takes over."""
    return where(step < warmup, step / max(warmup, 1), factor)


@dataclass(frozen=True, kw_only=True, repr=False)
class Constant(Schedule):
    """1 at every step, after the warm-up.

    The values of `get_constant_schedule_with_warmup` in transformers. With a warm-up the first update has rate 0.

    Args:
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1).
    """

    warmup: Length = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "warmup", check_length("warmup", self.warmup))

    def resolve(self, horizon: int | None = None) -> Self:
        horizon = check_horizon(horizon)
        warmup = in_steps(self.warmup, horizon, self)
        if horizon is not None:
            check_fits("warmup", warmup, horizon)
        return self if warmup == self.warmup else replace(self, warmup=warmup)

    def factor(self, step: Any) -> Any:
        return warmed_up(step, self.warmup, 1.0)


@dataclass(frozen=True, kw_only=True, repr=False)
class Decay(Schedule):
    """From 1 at the end of the warm-up to `end` at the horizon, and `end` from there on.

    A subclass gives the way between them as a `shape`.
    """

    horizon: int | None = None
    warmup: Length = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "horizon", check_horizon(self.horizon))
        object.__setattr__(self, "warmup", check_length("warmup", self.warmup))
        object.__setattr__(self, "end", check_factor("end", self.end))
        if self.horizon is not None:
            check_fits("warmup", self.warmup, self.horizon)

    def resolve(self, horizon: int | None = None) -> Self:
        horizon = check_horizon(horizon)
        if self.horizon is not None and isinstance(self.warmup, int):
            return self
        horizon = required(self.horizon or horizon, self)
        return replace(self, horizon=horizon, warmup=in_steps(self.warmup, horizon, self))

    def factor(self, step: Any) -> Any:
        assert self.horizon is not None
        # What remains of the decay, rather than what has passed: it is exactly 1 and 0 at the two ends, so both are met
        # to the bit, also where the warm-up fills the horizon and nothing is left to decay over.
        left = self.horizon - minimum(step, self.horizon)
        remaining = left / max(self.horizon - self.warmup, 1)
        above = self.shape(remaining)
        return warmed_up(step, self.warmup, above + (1 - above) * self.end)

    def shape(self, remaining: Any) -> Any:
        """How much of the way from `end` up to 1 is left, where `remaining` goes from 1 to 0: 1 at 1, and 0 at 0."""
        raise NotImplementedError(f"{type(self).__name__} does not define shape()")


@dataclass(frozen=True, kw_only=True, repr=False)
class Linear(Decay):
    """A straight line from 1 to `end`.

    With T the horizon and W the warm-up, for W ≤ t ≤ T:

        factor(t) = end + (1 − end) · (T − t) / (T − W)

    With `end=0` these are the values of `get_linear_schedule_with_warmup` in transformers; with a warm-up the first
    update has rate 0, as there.

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        end: the factor at the horizon and after it, at least 0; above 1 the schedule rises.
    """

    def shape(self, remaining: Any) -> Any:
        return remaining


@dataclass(frozen=True, kw_only=True, repr=False)
class Cosine(Decay):
    """Half a cosine wave from 1 to `end` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts).

    With T the horizon and W the warm-up, for W ≤ t ≤ T:

        factor(t) = end + (1 − end) · ½ · (1 + cos(π · (t − W) / (T − W)))

    With `end=0` these are the values of `get_cosine_schedule_with_warmup` in transformers up to the horizon (with a
    warm-up the first update has rate 0, as there), and without a warm-up those of torch's `CosineAnnealingLR`. Past
    the horizon both of those climb again; this holds `end`.

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        end: the factor at the horizon and after it, at least 0; above 1 the schedule rises.
    """

    def shape(self, remaining: Any) -> Any:
        return 0.5 * (1 - cos(math.pi * remaining))  # cos(π(1 − r)) = −cos(πr)
