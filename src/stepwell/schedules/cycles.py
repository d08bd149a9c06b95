"""Schedules that rise and fall: cosine with restarts, one cycle, cycles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

from stepwell.algebra import floor, log, maximum, minimum, where
from stepwell.schedules import fields
from stepwell.schedules.fields import Length, check_horizon
from stepwell.schedules.schedule import Schedule, in_steps
from stepwell.schedules.ways import between, descent, rise, warmed_up


@dataclass(frozen=True, kw_only=True, repr=False)
class CosineRestarts(Schedule):
    """Cosine waves, each from its peak down to `end` (SGDR, Loshchilov & Hutter 2017, arXiv:1608.03983).

    After the warm-up, in cycle i, u of the way through it:

        factor = end + (peakᵢ − end) · ½ · (1 + cos(πu)),  peakᵢ = max(peak_decay^i, end)

    The first cycle is `first` steps long, each later one `growth` times the one before; or there are `cycles` of them,
    which fill the horizon. With `first` and no warm-up these are the values of torch's `CosineAnnealingWarmRestarts`
    before the horizon, with `cycles` those of `get_cosine_with_hard_restarts_schedule_with_warmup` in transformers.
    (Where a restart falls on a step, that one can miss it by rounding.) The horizon ends the cycle that it falls in:
    it never is a restart.

    Args:
        horizon: total optimizer steps; needed with `cycles`. Without one the restarts go on for ever.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        end: the factor at the foot of each wave, at least 0.
        first: the length of the first cycle, steps (int, at least 1) or a share of the horizon.
        cycles: how many fill the time between warm-up and horizon, at least 1.
        growth: how much longer each cycle is than the one before, at least 1 (T_mult).
        peak_decay: how much lower each peak is than the one before, above 0 and at most 1.
    """

    horizon: int | None = fields.horizon()
    warmup: Length = fields.length(0)
    end: float = fields.factor(0.0)
    first: Length | None = fields.length(None, least=1)
    cycles: int | None = fields.count(None)
    growth: float = fields.number(1.0, least=1)
    peak_decay: float = fields.number(1.0, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.first is None) == (self.cycles is None):
            raise ValueError(
                "CosineRestarts takes one of first (the length of the first cycle) and cycles (how many there are)"
            )

    @property
    def needs_horizon(self) -> bool:  # type: ignore[override]
        return self.cycles is not None

    def factor(self, step: Any) -> Any:
        warmup = int(self.warmup)
        if self.horizon is not None:
            step = minimum(step, self.horizon)
        way, unit = self._way(maximum(step, warmup) - warmup)
        place = way / unit
        cycle = self._cycle(way, unit)
        last = self._last_cycle
        if last is not None:
            cycle = minimum(cycle, last)
        through = (place - self._start(cycle)) / self.growth**cycle
        peak = maximum(self.peak_decay**cycle, self.end)
        return warmed_up(step, warmup, between(peak, self.end, descent("cosine", through)))

    def _way(self, since: Any) -> tuple[Any, int]:
        """How far it is since the warm-up, and how far the first cycle goes, in the same measure.

        Whole numbers wherever a restart falls on a step, so that it is met without a rounding error.
        """
        if self.cycles is None:
            return since, max(int(self.first or 1), 1)
        assert self.horizon is not None
        length = self.horizon - int(self.warmup)
        return (since * self._start(self.cycles), length) if length else (self._start(self.cycles), 1)

    def _start(self, cycle: Any) -> Any:
        """Where a cycle starts, in lengths of the first one."""
        return cycle if self.growth == 1 else (self.growth**cycle - 1) / (self.growth - 1)

    def _cycle(self, way: Any, unit: int) -> Any:
        """The cycle that it has come to."""
        place = way / unit
        guess = floor(place if self.growth == 1 else log(place * (self.growth - 1) + 1) / math.log(self.growth))
        # The logarithm may be off by a rounding, and the place too: XLA multiplies by the reciprocal, and 47 · (1/47)
        # may lie below 1. A product of whole numbers is exact.
        guess = where(way < self._start(guess) * unit, guess - 1, guess)
        return where(way < self._start(guess + 1) * unit, guess, guess + 1)

    @property
    def _last_cycle(self) -> int | None:
        """The cycle that the horizon ends."""
        if self.cycles is not None:
            return self.cycles - 1
        if self.horizon is None:
            return None
        return int(self._cycle(*self._way(max(self.horizon - int(self.warmup) - 1, 0))))


@dataclass(frozen=True, kw_only=True, repr=False)
class OneCycle(Schedule):
    """Up to the peak and down below the start, once (Smith & Topin 2018, arXiv:1708.07120).

    From `start` at step 0 to `peak` at step R = `rise`, and to `end` at the horizon; with `three_phase` it first comes
    back to `start` at step 2R. These are the values of torch's `OneCycleLR`, whose `total_steps` are T + 1, whose
    `max_lr` is the base rate, and which raises one step later, where this holds.

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        rise: the length R, steps (int, at least 1) or a share of the horizon, at most the horizon (with three phases:
            half of it).
        start: the factor of step 0, at least 0 (1 / `div_factor`).
        peak: the factor of step R, at least 0.
        end: the factor of the horizon, at least 0 (1 / (`div_factor` · `final_div_factor`)).
        shape: "cosine" or "linear".
        three_phase: down to `start` as fast as up, then on to `end`.
    """

    horizon: int | None = fields.horizon()
    rise: Length = fields.length(0.3, least=1)
    start: float = fields.factor(0.04)
    peak: float = fields.factor(1.0)
    end: float = fields.factor(4e-6)
    shape: str = fields.choice("cosine", ("cosine", "linear"))
    three_phase: bool = fields.flag()

    needs_horizon: ClassVar[bool] = True

    def check_fits(self, horizon: int) -> None:
        super().check_fits(horizon)
        half = max(horizon // 2, 1)  # in a trial of one step too there is a rise
        rise = in_steps(self.rise, horizon, self, most=half if self.rise <= 0.5 else None)
        if self.three_phase and rise > half:
            raise ValueError(f"rise must be at most half the horizon of {horizon} steps, got {self.rise}")

    def resolve(self, horizon: int | None = None) -> Self:
        known = self.horizon or check_horizon("horizon", horizon)
        if known is None or not self.three_phase:
            return super().resolve(known)
        self.check_fits(known)
        rise = in_steps(self.rise, known, self, least=1, most=max(known // 2, 1))
        return replace(self, rise=rise, horizon=known)

    def opposite(self, lowest: float) -> Self:
        """The schedule of the momentum that goes with it: 1 where the rate is low, `lowest` where it peaks.

        torch's `base_momentum=0.85, max_momentum=0.95` is momentum 0.95 in the group and `opposite(0.85 / 0.95)`.
        """
        return replace(self, start=1.0, peak=lowest, end=1.0)

    def factor(self, step: Any) -> Any:
        assert self.horizon is not None
        assert isinstance(self.rise, int)
        top = max(self.rise, 1)
        points = [(0, self.start), (top, self.peak), (self.horizon, self.end)]
        if self.three_phase:
            points.insert(2, (2 * top, self.start))
        value: Any = self.start
        for (begin, a), (finish, b) in pairwise(points):
            progress = (minimum(maximum(step, begin), finish) - begin) / max(finish - begin, 1)
            value = where(step < begin, value, between(a, b, descent(self.shape, progress)))
        return value


@dataclass(frozen=True, kw_only=True, repr=False)
class Cyclic(Schedule):
    """Triangles between `low` and `peak` (Smith 2017, arXiv:1506.01186).

    In cycle i = ⌊t / (up + down)⌋, with h the height of the triangle at t, from 0 to 1 and back:

        factor(t) = low + (peak − low) · h · scale

    where scale is 1 ("triangular"), 2^−i ("triangular2") or gamma^t ("exp_range").

    These are the values of torch's `CyclicLR` with `max_lr` as the base rate and `base_lr = low · max_lr`.

    Args:
        horizon: where the schedule holds; None goes on for ever, unless the scheduler knows one.
        up: the length of the rise, steps (int, at least 1) or a share of the horizon.
        down: the length of the fall; as long as the rise by default.
        low: the factor at the foot, at least 0.
        peak: the factor at the first peak, at least 0.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: the factor of one step for "exp_range", above 0 and at most 1.
    """

    horizon: int | None = fields.horizon()
    up: Length = fields.length(2000, least=1, fits=False)
    down: Length | None = fields.length(None, least=1, fits=False)
    low: float = fields.factor(0.1)
    peak: float = fields.factor(1.0)
    mode: str = fields.choice("triangular", ("triangular", "triangular2", "exp_range"))
    gamma: float = fields.number(1.0, above=0, most=1)

    def opposite(self, lowest: float) -> Self:
        """The schedule of the momentum that goes with it: 1 where the rate is low, `lowest` where it peaks."""
        return replace(self, low=1.0, peak=lowest)

    def factor(self, step: Any) -> Any:
        up = max(int(self.up), 1)
        down = up if self.down is None else max(int(self.down), 1)
        if self.horizon is not None:
            step = minimum(step, self.horizon)
        cycle = floor(step / (up + down))
        within = step - cycle * (up + down)
        height = where(within < up, rise("linear", within / up), descent("linear", (within - up) / down))
        scale: Any = 1.0
        if self.mode == "triangular2":
            scale = 0.5**cycle
        elif self.mode == "exp_range":
            scale = self.gamma**step
        return between(self.peak, self.low, height * scale)
