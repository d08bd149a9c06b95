"""What every schedule is: a pure function of the step, whose lengths are resolved once.

A schedule answers one question: by what factor is a hyper-parameter's base value multiplied at step t? Steps are
optimizer steps, counted as in `torch.optim.lr_scheduler.LambdaLR`: the update made first is step 0.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

from stepwell.algebra import maximum
from stepwell.naming import nearest

Length = int | float
"""Steps (an int), or a share of the horizon (a float strictly between 0 and 1)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Schedule:
    """A factor for each step; a hyper-parameter is its group's base value times that factor.

    Call it with a step: an int, or an array of steps (NumPy, torch, JAX, also under `jax.jit`), and get the factor.
    It holds the value of step 0 before step 0, and its last value past its end. Schedules are immutable, compare by
    value, pickle, and print as the code that makes them.

    A schedule of your own is a frozen, keyword-only dataclass derived from this class, with a `factor` written in
    functions of `stepwell.algebra`, and a `resolve` if it has lengths that may be shares of a horizon.
    """

    def __new__(cls, *_: Any, **given: Any) -> Self:
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise TypeError(f"unknown argument {name!r} for {cls.__name__}; {takes}{nearest(name, known)}")
        return super().__new__(cls)

    def __call__(self, step: Any) -> Any:
        """The factor at `step`. Raises ValueError where the horizon is needed and not known."""
        return self._resolved.factor(maximum(step, 0))

    def factor(self, step: Any) -> Any:
        """The factor at a step that is at least 0, given that all lengths are steps. Call the schedule instead."""
        raise NotImplementedError(f"{type(self).__name__} does not define factor()")

    def resolve(self, horizon: int | None = None) -> Self:
        """The same schedule with every length in steps.

        A schedule that has a horizon of its own keeps it; `horizon` is for one that has none. Shares are rounded to
        the nearest step: neither 0.29 · 100 = 28.999… nor 0.07 · 100 = 7.000…1, as floats have it, moves a boundary.
        (The Trainer of transformers rounds its `warmup_ratio` up: there a warm-up can be one step longer.)

        Args:
            horizon: total optimizer steps, at least 1.

        Raises:
            ValueError: a length is a share or the shape ends at the horizon, and no horizon is known; or a length
                does not fit in the horizon.
        """
        check_horizon(horizon)
        return self

    @cached_property
    def _resolved(self) -> Self:
        return self.resolve()

    def __repr__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        defaults = {field.name: field.default for field in fields(self)}
        shown = (f"{name}={value!r}" for name, value in given.items() if value != defaults[name])
        return f"{type(self).__name__}({', '.join(shown)})"


def check_horizon(horizon: Any) -> int | None:
    """The horizon as an int of at least 1, or None. Raises TypeError or ValueError."""
    if horizon is None:
        return None
    if isinstance(horizon, bool) or not isinstance(horizon, numbers.Integral):
        raise TypeError(f"horizon must be a whole number of steps (int), got {horizon!r}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 step, got {horizon!r}")
    return int(horizon)


def check_length(name: str, length: Any, least: int = 0) -> Length:
    """The length as an int of at least `least`, or as a share. Raises TypeError or ValueError."""
    if isinstance(length, float):
        if not 0 < length < 1:
            hint = f"; write {int(length)} for steps" if length.is_integer() and length >= least else ""
            raise ValueError(
                f"{name} is a share of the horizon when it is a float, strictly between 0 and 1, got {length!r}{hint}"
            )
        return float(length)
    if isinstance(length, bool) or not isinstance(length, numbers.Integral):
        raise TypeError(f"{name} must be steps (int) or a share of the horizon (float), got {length!r}")
    if length < least:
        raise ValueError(f"{name} must be at least {least}, got {length!r}")
    return int(length)


def check_factor(name: str, factor: Any) -> float:
    """The factor as it is: a finite number of at least 0. Raises TypeError or ValueError."""
    if isinstance(factor, bool) or not isinstance(factor, numbers.Real):
        raise TypeError(f"{name} must be a number, got {factor!r}")
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, got {factor!r}")
    return float(factor)


def check_fits(name: str, length: Length, horizon: int) -> None:
    """Raise ValueError for a length in steps that goes beyond the horizon."""
    if length > horizon:
        raise ValueError(f"{name} must be at most the horizon of {horizon} steps, got {length}")


def in_steps(length: Length, horizon: int | None, schedule: Schedule) -> int:
    """A length of `schedule` in steps. Raises ValueError where it is a share of a horizon that is not known."""
    if isinstance(length, int):
        return length
    return round(length * required(horizon, schedule))


def required(horizon: int | None, schedule: Schedule) -> int:
    """The horizon that `schedule` cannot do without. Raises ValueError where it is not known."""
    if horizon is None:
        raise ValueError(
            f"{schedule!r} needs a horizon, the total number of optimizer steps: give horizon= to the schedule or to "
            "its scheduler, or call resolve(horizon)"
        )
    return horizon
