"""Schedules made of schedules: a warm-up in front, a product, bounds, a shift, a repetition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from stepwell.algebra import floor, maximum, minimum, where
from stepwell.schedules import fields
from stepwell.schedules.fields import Length, check_horizon
from stepwell.schedules.schedule import Schedule, given, in_steps, outlasting
from stepwell.schedules.ways import between, rise
from stepwell.text.values import shown

_RISES = ("linear", "cosine", "1-sqrt", "polynomial", "exponential")


@dataclass(frozen=True, kw_only=True, repr=False)
class _Around(Schedule):
    """Something done to one schedule. Prints as the call of the function that makes it."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"{type(self).__name__.lower()} takes a Schedule first, got {shown(self.schedule)}")
        super().__post_init__()

    def _inner(self, horizon: int | None) -> Schedule:
        """The inner schedule with every length in steps, over the steps that are left to it."""
        try:
            return self.schedule.resolve(horizon)
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}") from None

    def stretched(self, horizon: int | None) -> Self:
        return replace(super().stretched(horizon), schedule=self.schedule.stretched(None))

    def __repr__(self) -> str:
        rest = [f"{name}={value!r}" for name, value in given(self).items() if name != "schedule"]
        return f"{type(self).__name__.lower()}({', '.join([repr(self.schedule), *rest])})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Warmup(_Around):
    """A warm-up in front of a schedule; made by `warmup`."""

    length: Length = fields.length(least=0)
    shape: str = fields.choice("linear", _RISES)
    start: float = fields.factor(0.0)
    power: float = fields.number(1.0, above=0)
    horizon: int | None = fields.horizon()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape == "exponential" and self.start == 0:
            raise ValueError("start must be above 0 for an exponential warm-up, which multiplies it, got 0.0")
        if self.power != 1 and self.shape != "polynomial":
            raise ValueError(f"power is for shape 'polynomial', got power {self.power} for shape {self.shape!r}")

    def resolve(self, horizon: int | None = None) -> Self:
        slot = check_horizon("horizon", horizon)
        known = self.horizon or slot
        ends = self.schedule.needs_horizon  # what does not may have no step of the horizon
        length = in_steps(self.length, known, self, most=None if known is None else known - ends)
        left = None if known is None else known - length
        if left is not None and left < ends:
            raise ValueError(f"length must be less than the horizon of {known} steps, got {self.length}")
        inner = self._inner(left if left is None else max(left, 1))
        return replace(
            self, schedule=inner, length=length, horizon=known if left == 0 else outlasting(self.horizon, slot)
        )

    def without_warmup(self) -> Schedule:
        return self.schedule.without_warmup()

    def factor(self, step: Any) -> Any:
        length = int(self.length)
        if self.horizon == length:  # nothing is left to the schedule, and it holds where it begins
            step = minimum(step, length)
        after = self.schedule.factor(maximum(step, length) - length)
        if not length:
            return after
        return where(step < length, self.schedule(0) * self._rise(minimum(step, length) / length), after)

    def _rise(self, progress: Any) -> Any:
        """From `start` at progress 0 to 1 at progress 1."""
        if self.shape == "exponential":
            return self.start ** (1 - progress)
        gained = progress**self.power if self.shape == "polynomial" else rise(self.shape, progress)
        return between(1.0, self.start, gained)


@dataclass(frozen=True, kw_only=True, repr=False)
class Clamp(_Around):
    """A schedule kept between bounds; made by `clamp`."""

    low: float = fields.factor(0.0)
    high: float | None = fields.factor(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high is not None and self.high < self.low:
            raise ValueError(f"high must be at least low, which is {self.low}, got {self.high}")

    def resolve(self, horizon: int | None = None) -> Self:
        return replace(self, schedule=self._inner(horizon))

    def stretched(self, horizon: int | None) -> Self:
        return replace(self, schedule=self.schedule.stretched(horizon))

    def without_warmup(self) -> Schedule:
        return replace(self, schedule=self.schedule.without_warmup())

    def factor(self, step: Any) -> Any:
        value = maximum(self.schedule.factor(step), self.low)
        return value if self.high is None else minimum(value, self.high)


@dataclass(frozen=True, kw_only=True, repr=False)
class Shift(_Around):
    """A schedule that begins later; made by `shift`."""

    by: Length = fields.length(least=-(2**62))
    horizon: int | None = fields.horizon()

    def resolve(self, horizon: int | None = None) -> Self:
        slot = check_horizon("horizon", horizon)
        known = self.horizon or slot
        by = in_steps(self.by, known, self, most=None if known is None else known - 1)
        if known is not None and by >= known:
            raise ValueError(f"by must be less than the horizon of {known} steps, got {self.by}")
        inner = self._inner(None if known is None else known - by)
        return replace(self, schedule=inner, by=by, horizon=outlasting(self.horizon, slot))

    def without_warmup(self) -> Schedule:
        return replace(self, schedule=self.schedule.without_warmup())

    def factor(self, step: Any) -> Any:
        by = int(self.by)
        return self.schedule.factor(maximum(step, max(by, 0)) - by)


@dataclass(frozen=True, kw_only=True, repr=False)
class Repeat(_Around):
    """A schedule again and again; made by `repeat`."""

    every: Length = fields.length(least=1)
    times: int | None = fields.count(None)
    horizon: int | None = fields.horizon()

    def resolve(self, horizon: int | None = None) -> Self:
        known = self.horizon or check_horizon("horizon", horizon)
        every = in_steps(self.every, known, self, least=1)
        return replace(self, schedule=self._inner(every), every=every, horizon=known)

    def stretched(self, horizon: int | None) -> Self:
        return replace(self, horizon=horizon)  # there are more turns, each as long as it was

    def factor(self, step: Any) -> Any:
        every = int(self.every)
        if self.horizon is not None:
            step = minimum(step, self.horizon)
        # Half a step on: XLA multiplies by the reciprocal, and 47 · (1/47) may lie below 1.
        turn = floor((step + 0.5) / every)
        last = min(
            math.inf if self.times is None else self.times - 1,
            math.inf if self.horizon is None else (self.horizon - 1) // every,
        )
        if last < math.inf:
            turn = minimum(turn, int(last))
        return self.schedule.factor(step - turn * every)


@dataclass(frozen=True, kw_only=True, repr=False)
class Product(Schedule):
    """The product of schedules; made by `product`."""

    schedules: tuple[Schedule, ...]
    horizon: int | None = fields.horizon()

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        if len(self.schedules) < 2:
            raise ValueError(f"a product needs at least 2 schedules, got {len(self.schedules)}")
        for index, schedule in enumerate(self.schedules):
            if not isinstance(schedule, Schedule):
                raise TypeError(f"schedule {index} of a product must be a Schedule, got {shown(schedule)}")
        super().__post_init__()

    def resolve(self, horizon: int | None = None) -> Self:
        slot = check_horizon("horizon", horizon)
        pieces = tuple(one.resolve(self.horizon or slot) for one in self.schedules)
        return replace(self, schedules=pieces, horizon=outlasting(self.horizon, slot))

    def stretched(self, horizon: int | None) -> Self:
        return replace(self, schedules=tuple(one.stretched(None) for one in self.schedules), horizon=horizon)

    def without_warmup(self) -> Schedule:
        return replace(self, schedules=tuple(one.without_warmup() for one in self.schedules))

    def factor(self, step: Any) -> Any:
        value = self.schedules[0].factor(step)
        for schedule in self.schedules[1:]:
            value = value * schedule.factor(step)
        return value

    def __repr__(self) -> str:
        horizon = [] if self.horizon is None else [f"horizon={self.horizon}"]
        return f"product({', '.join([*map(repr, self.schedules), *horizon])})"


def warmup(
    schedule: Schedule,
    length: Length,
    *,
    shape: str = "linear",
    start: float = 0.0,
    power: float = 1.0,
    horizon: int | None = None,
) -> Warmup:
    """A warm-up in front: `warmup(Cosine(), 0.05, shape="cosine")`.

    The schedule begins when the warm-up is over, and has the steps that are left as its horizon. Over the W steps
    before, with u = t / W, the factor is the schedule's first one times

        start + (1 − start) · u              shape "linear"
        start + (1 − start) · u^power        shape "polynomial"
        start + (1 − start) · ½(1 − cos πu)  shape "cosine"
        start + (1 − start) · (1 − √(1 − u)) shape "1-sqrt"
        start^(1 − u)                        shape "exponential"

    Args:
        schedule: what comes after.
        length: steps (int), or a share of the horizon (float strictly between 0 and 1); less than the horizon.
        shape: one of the above.
        start: the share of the schedule's first factor at step 0, at least 0; above 0 for "exponential".
        power: above 0, for "polynomial" alone.
        horizon: total optimizer steps of the whole, at least 1; may be left to the scheduler.
    """
    return Warmup(schedule=schedule, length=length, shape=shape, start=start, power=power, horizon=horizon)


def product(*schedules: Schedule, horizon: int | None = None) -> Product:
    """The product of the factors of schedules, at least two, each over the whole horizon."""
    return Product(schedules=schedules, horizon=horizon)


def clamp(schedule: Schedule, *, low: float = 0.0, high: float | None = None) -> Clamp:
    """The schedule's factor, but at least `low` and at most `high` (None: no bound)."""
    return Clamp(schedule=schedule, low=low, high=high)


def shift(schedule: Schedule, by: Length, *, horizon: int | None = None) -> Shift:
    """The schedule `by` steps later (or a share of the horizon), over the steps that are left.

    It holds its first factor until then. With fewer than 0 steps it begins that far into it.
    """
    return Shift(schedule=schedule, by=by, horizon=horizon)


def repeat(schedule: Schedule, every: Length, *, times: int | None = None, horizon: int | None = None) -> Repeat:
    """The schedule again and again, each time over `every` steps (or that share of the horizon).

    After the last of `times` it holds the schedule's end; from the horizon on, the value that it has there, which is
    none of an end where the horizon cuts a turn.
    """
    return Repeat(schedule=schedule, every=every, times=times, horizon=horizon)


COMPOSITIONS: Mapping[str, Any] = {
    "warmup": warmup,
    "product": product,
    "clamp": clamp,
    "shift": shift,
    "repeat": repeat,
}
"""The functions that make them, under the names that they print with."""
