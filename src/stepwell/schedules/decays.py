"""Schedules that fall from 1 to their end at the horizon: linear, cosine, polynomial, REX."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from stepwell.algebra import cos, minimum
from stepwell.schedules import fields
from stepwell.schedules.fields import Length
from stepwell.schedules.schedule import Schedule
from stepwell.schedules.ways import between, warmed_up


@dataclass(frozen=True, kw_only=True, repr=False)
class _Decay(Schedule):
    """From 1 at the end of the warm-up to `end` at the horizon, and `end` from there on.

    A subclass gives the way between them as a `shape`.
    """

    horizon: int | None = fields.horizon()
    warmup: Length = fields.length(0)
    end: float = fields.factor(0.0)

    needs_horizon: ClassVar[bool] = True

    def factor(self, step: Any) -> Any:
        assert self.horizon is not None
        assert isinstance(self.warmup, int)
        # What remains of the decay, rather than what has passed: it is exactly 1 and 0 at the two ends, so both are met
        # to the bit, also where the warm-up fills the horizon and nothing is left to decay over.
        left = self.horizon - minimum(step, self.horizon)
        remaining = minimum(left / max(self.horizon - self.warmup, 1), 1.0)
        return warmed_up(step, self.warmup, between(1.0, self.end, self.shape(remaining)))

    def shape(self, remaining: Any) -> Any:
        """How much of the way from `end` up to 1 is left, where `remaining` goes from 1 to 0: 1 at 1."""
        raise NotImplementedError(f"{type(self).__name__} does not define shape()")


@dataclass(frozen=True, kw_only=True, repr=False)
class Linear(_Decay):
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
class Cosine(_Decay):
    """Half a cosine wave from 1 to `end` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts).

    With T the horizon and W the warm-up, for W ≤ t ≤ T:

        factor(t) = end + (1 − end) · ½ · (1 + cos(2π · waves · (t − W) / (T − W)))

    With `end=0` these are the values of `get_cosine_schedule_with_warmup` in transformers up to the horizon (with a
    warm-up the first update has rate 0, as there), and without a warm-up those of torch's `CosineAnnealingLR`. Past
    the horizon both of those climb again; this holds the factor of the horizon.

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        end: the factor at the foot of the wave, at least 0; above 1 the schedule rises.
        waves: how many waves fit between warm-up and horizon, at least 0; ½ goes down once. `num_cycles` in
            transformers.
    """

    waves: float = fields.number(0.5, least=0)

    def shape(self, remaining: Any) -> Any:
        return 0.5 * (1 + cos(2 * math.pi * self.waves * (1 - remaining)))


@dataclass(frozen=True, kw_only=True, repr=False)
class Polynomial(_Decay):
    """A power of what remains, from 1 to `end`.

    With T the horizon and W the warm-up, for W ≤ t ≤ T:

        factor(t) = end + (1 − end) · ((T − t) / (T − W))^power

    The values of `get_polynomial_decay_schedule_with_warmup` in transformers, for every group from its own rate;
    without a warm-up those of torch's `PolynomialLR`.

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        end: the factor at the horizon and after it, at least 0; above 1 the schedule rises.
        power: above 0; 1 is a line, 2 falls fast first, ½ last.
    """

    power: float = fields.number(1.0, above=0)

    def shape(self, remaining: Any) -> Any:
        return remaining**self.power


@dataclass(frozen=True, kw_only=True, repr=False)
class REX(_Decay):
    """Reflected exponential: slow at first, fast at the end (Chen, Wolfe & Kyrillidis 2021, arXiv:2107.04197).

    With T the horizon, W the warm-up and r = (T − t) / (T − W), for W ≤ t ≤ T:

        factor(t) = end + (1 − end) · r / (½ + ½ · r)

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        end: the factor at the horizon and after it, at least 0; above 1 the schedule rises.
    """

    def shape(self, remaining: Any) -> Any:
        return remaining / (0.5 + 0.5 * remaining)
