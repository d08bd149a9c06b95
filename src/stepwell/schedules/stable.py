"""Schedules that stay at their peak for a while, and fall at the end: WSD, trapezoid, knee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from stepwell.algebra import maximum, minimum, where
from stepwell.schedules import fields
from stepwell.schedules.fields import Length
from stepwell.schedules.schedule import Schedule
from stepwell.schedules.ways import WAYS, between, descent, warmed_up


@dataclass(frozen=True, kw_only=True, repr=False)
class _Stable(Schedule):
    """A linear warm-up to 1, 1 until the decay begins, and the decay to `end` at the horizon."""

    horizon: int | None = fields.horizon()
    warmup: Length = fields.length(0)
    end: float = fields.factor(0.0)

    needs_horizon: ClassVar[bool] = True

    @property
    def falls_at(self) -> int:
        """The step at which the decay begins; all lengths are steps."""
        raise NotImplementedError(f"{type(self).__name__} does not define falls_at")

    @property
    def way(self) -> str:
        """The shape of the decay."""
        return "linear"

    def factor(self, step: Any) -> Any:
        assert self.horizon is not None
        assert isinstance(self.warmup, int)
        start = self.falls_at
        progress = 1 - (self.horizon - minimum(maximum(step, start), self.horizon)) / max(self.horizon - start, 1)
        fallen = between(1.0, self.end, descent(self.way, maximum(progress, 0.0)))
        return warmed_up(step, self.warmup, where(step < start, 1.0, fallen))


@dataclass(frozen=True, kw_only=True, repr=False)
class WSD(_Stable):
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395; 1−√ by Hägele et al. 2024, arXiv:2405.18392).

    With T the horizon, D the decay and p = (t − (T − D)) / D, for t ≥ T − D:

        factor(t) = end + (1 − end) · (1 − √p)         shape "1-sqrt"
        factor(t) = end + (1 − end) · (1 − p)          shape "linear"
        factor(t) = end + (1 − end) · ½(1 + cos(πp))   shape "cosine"

    With a linear warm-up from 0 these are the values of `get_wsd_schedule` in transformers.

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1).
        end: the factor at the horizon and after it, at least 0.
        decay: the length D, steps (int) or a share of the horizon; warm-up and decay together fit in the horizon.
        shape: "1-sqrt", "linear" or "cosine".
    """

    decay: Length = fields.length(0.1, after="warmup")
    shape: str = fields.choice("1-sqrt", WAYS)

    @property
    def falls_at(self) -> int:
        assert self.horizon is not None
        return self.horizon - int(self.decay)

    @property
    def way(self) -> str:
        return self.shape


@dataclass(frozen=True, kw_only=True, repr=False)
class Trapezoid(_Stable):
    """Up in a line, flat, down in a line (Xing et al. 2018, arXiv:1802.08770).

        factor(t) = min(t / warmup, 1, end + (1 − end) · (horizon − t) / decay)

    Args:
        horizon: total optimizer steps, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1); a tenth by default.
        end: the factor at the horizon and after it, at least 0.
        decay: as `warmup`, at the end; together they fit in the horizon.
    """

    warmup: Length = fields.length(0.1)
    decay: Length = fields.length(0.1, after="warmup")

    @property
    def falls_at(self) -> int:
        assert self.horizon is not None
        return self.horizon - int(self.decay)


@dataclass(frozen=True, kw_only=True, repr=False)
class Knee(_Stable):
    """Explore at the peak, then exploit in a line to the end (Iyer et al. 2020, arXiv:2003.03977).

    With W the warm-up, E the exploration and T the horizon, for t ≥ W + E:

        factor(t) = end + (1 − end) · (T − t) / (T − W − E)

    Args:
        horizon: total optimizer steps T, at least 1; may be left to the scheduler.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1).
        end: the factor at the horizon and after it, at least 0.
        explore: the length E, steps (int) or a share of the horizon; together with the warm-up within the horizon.
    """

    explore: Length = fields.length(0.5, after="warmup")

    @property
    def falls_at(self) -> int:
        return int(self.warmup) + int(self.explore)
