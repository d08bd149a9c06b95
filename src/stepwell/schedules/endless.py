"""Schedules that need no horizon: constant, by powers of the step, by constant factors. Given one, they hold there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stepwell.algebra import floor, maximum, minimum, sqrt, where
from stepwell.schedules import fields
from stepwell.schedules.fields import Length
from stepwell.schedules.schedule import Schedule
from stepwell.schedules.ways import warmed_up


@dataclass(frozen=True, kw_only=True, repr=False)
class Constant(Schedule):
    """1 at every step, after the warm-up.

    The values of `get_constant_schedule_with_warmup` in transformers. With a warm-up the first update has rate 0.

    Args:
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1).
    """

    warmup: Length = fields.length(0)

    def factor(self, step: Any) -> Any:
        assert isinstance(self.warmup, int)
        return warmed_up(step, self.warmup, 1.0)


@dataclass(frozen=True, kw_only=True, repr=False)
class _Endless(Schedule):
    """A linear warm-up to 1, and from there on a way that has no end of its own."""

    horizon: int | None = fields.horizon()
    warmup: Length = fields.length(0)

    def factor(self, step: Any) -> Any:
        assert isinstance(self.warmup, int)
        if self.horizon is not None:
            step = minimum(step, self.horizon)
        return warmed_up(step, self.warmup, self.way(maximum(step, self.warmup) - self.warmup))

    def way(self, since: Any) -> Any:
        """The factor `since` steps after the warm-up, at least 0: 1 at 0."""
        raise NotImplementedError(f"{type(self).__name__} does not define way()")


@dataclass(frozen=True, kw_only=True, repr=False)
class InverseSqrt(_Endless):
    """Falls with the square root of the step (Zhai et al. 2022, arXiv:2106.04560, reciprocal square root).

    With W the warm-up and τ the timescale, for t ≥ W:

        factor(t) = √(τ / (t − W + τ))

    The values of `get_inverse_sqrt_schedule` in transformers.

    Args:
        horizon: where the schedule stops falling and holds; None falls for ever, unless the scheduler knows one.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        timescale: after how many steps the factor has fallen to 1/√2; None: the warm-up, or 10,000 steps without one.
    """

    timescale: Length | None = fields.length(None, least=1, fits=False)

    def without_warmup(self) -> Schedule:
        return replace(self, warmup=0, timescale=self.timescale or self.warmup or None)

    def way(self, since: Any) -> Any:
        scale = (self.warmup or 10_000) if self.timescale is None else self.timescale
        return sqrt(scale / (since + scale))


@dataclass(frozen=True, kw_only=True, repr=False)
class Power(_Endless):
    """A power law, capped at 1 (Shen et al. 2024, arXiv:2408.13359: min(η_max, a · nᵇ)).

    With κ the `flat` length and b the power, after the warm-up:

        factor(t) = min(1, (t / κ)^−b)

    In the paper n counts tokens, b is 0.51, and the last tenth decays to 0: `product(Power(), WSD(decay=0.1))`.

    Args:
        horizon: where the schedule stops falling and holds; None falls for ever, unless the scheduler knows one.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most `flat`.
        flat: the step up to which the cap holds, steps (int, at least 1) or a share of the horizon.
        power: above 0.
    """

    flat: Length = fields.length(0.1, least=1)
    power: float = fields.number(0.51, above=0)

    def check_fits(self, horizon: int) -> None:
        super().check_fits(horizon)
        if isinstance(self.warmup, int) and isinstance(self.flat, int) and self.warmup > max(self.flat, 1):
            raise ValueError(f"warmup must be at most flat, which is {self.flat} steps, got {self.warmup}")

    def way(self, since: Any) -> Any:
        flat = max(int(self.flat), 1)
        return (flat / maximum(since + self.warmup, flat)) ** self.power


@dataclass(frozen=True, kw_only=True, repr=False)
class Exponential(_Endless):
    """Falls by the same factor at every step.

    With W the warm-up, T the horizon, for t ≥ W, one of:

        factor(t) = gamma^(t − W)                  given gamma: the values of torch's `ExponentialLR`
        factor(t) = end^((t − W) / (T − W))        given end: 1 at the end of the warm-up, `end` at the horizon

    Args:
        horizon: where the schedule stops falling and holds; needed with `end`.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        gamma: the factor of one step, above 0 and at most 1.
        end: the factor at the horizon, above 0 and at most 1.
    """

    gamma: float | None = fields.number(None, above=0, most=1)
    end: float | None = fields.number(None, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.gamma is None) == (self.end is None):
            raise ValueError("Exponential takes one of gamma (the factor of one step) and end (that of the horizon)")

    @property
    def needs_horizon(self) -> bool:  # type: ignore[override]
        return self.end is not None

    def way(self, since: Any) -> Any:
        if self.gamma is not None:
            return self.gamma**since
        assert self.end is not None
        assert self.horizon is not None
        after = self.horizon - int(self.warmup)
        return self.end ** (since / after) if after else self.end


@dataclass(frozen=True, kw_only=True, repr=False)
class Step(_Endless):
    """Falls by a factor every so many steps.

    With W the warm-up, for t ≥ W:

        factor(t) = gamma^⌊(t − W) / every⌋

    The values of torch's `StepLR`.

    Args:
        horizon: where the schedule holds; None falls for ever, unless the scheduler knows one.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        every: steps (int, at least 1), or a share of the horizon.
        gamma: the factor, above 0 and at most 1.
    """

    every: Length = fields.length(least=1)
    gamma: float = fields.number(0.1, above=0, most=1)

    def way(self, since: Any) -> Any:
        # Half a step on: XLA multiplies by the reciprocal, and 47 · (1/47) may lie below 1.
        return self.gamma ** floor((since + 0.5) / max(int(self.every), 1))


@dataclass(frozen=True, kw_only=True, repr=False)
class MultiStep(_Endless):
    """Falls by a factor at each of some steps.

        factor(t) = gamma^(how many of `at` are ≤ t)

    The values of torch's `MultiStepLR`.

    Args:
        horizon: where the schedule holds; None has no end, unless the scheduler knows one.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); at most the horizon.
        at: steps (int, at least 1) or shares of the horizon, ascending, after the warm-up, none beyond the horizon.
            Where several are the same step, as shares of a short horizon may be, it falls that often there.
        gamma: the factor, above 0 and at most 1.
    """

    at: tuple[Length, ...] = fields.lengths(least=1)
    gamma: float = fields.number(0.1, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        starts = [self.warmup, *self.at]
        if all(isinstance(start, int) for start in starts) and sorted(self.at) != list(self.at):
            raise ValueError(f"at must ascend, got {list(self.at)}")
        if self.at and isinstance(self.warmup, int) and isinstance(self.at[0], int) and self.at[0] < self.warmup:
            raise ValueError(f"at must not lie in the warm-up of {self.warmup} steps, got {list(self.at)}")

    def check_fits(self, horizon: int) -> None:
        super().check_fits(horizon)
        late = [start for start in self.at if isinstance(start, int) and start > horizon]
        if late:
            raise ValueError(f"at must be at most the horizon of {horizon} steps, got {late[0]}, which never comes")

    def way(self, since: Any) -> Any:
        value = 1.0 + 0.0 * since  # a one of the step's own kind: torch makes a float32 of two bare numbers
        for fallen, start in enumerate(self.at, start=1):
            value = where(since + self.warmup < start, value, self.gamma**fallen)
        return value


@dataclass(frozen=True, kw_only=True, repr=False)
class Noam(Schedule):
    """The Transformer's schedule (Vaswani et al. 2017, arXiv:1706.03762, eq. 3), whose steps begin at n = t + 1.

    With W the warm-up, for n ≥ 1:

        factor(t) = min(n / W, √(W / n))                       which is 1 at its peak, n = W
        factor(t) = width^−½ · min(n^−½, n · W^−1.5)           given the model's width, as in the paper

    Args:
        horizon: where the schedule stops falling and holds; None falls for ever, unless the scheduler knows one.
        warmup: steps (int, at least 1), or a share of the horizon.
        width: d_model; the base rate is then a multiple of the paper's rate. None scales the peak to 1.
    """

    horizon: int | None = fields.horizon()
    warmup: Length = fields.length(4000, least=1)
    width: float | None = fields.number(None, above=0)

    def without_warmup(self) -> Schedule:
        return self  # the warm-up is half of what it is

    def factor(self, step: Any) -> Any:
        warmup = max(int(self.warmup), 1)
        number = 1 + (step if self.horizon is None else minimum(step, self.horizon))
        peak = 1.0 if self.width is None else (self.width * warmup) ** -0.5
        return peak * minimum(number / warmup, sqrt(warmup / number))
