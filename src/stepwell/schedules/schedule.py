"""What every schedule is: a pure function of the step, whose lengths are resolved once.

A schedule answers one question: by what factor is a hyper-parameter's base value multiplied at step t? Steps are
optimizer steps, counted as in `torch.optim.lr_scheduler.LambdaLR`: the update made first is step 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from stepwell.algebra import maximum
from stepwell.schedules.fields import Length, check_horizon
from stepwell.schedules.written import as_python
from stepwell.text.naming import SEAM, meant, nearest

_KINDS: dict[str, type[Schedule]] = {}


@dataclass(frozen=True, kw_only=True, repr=False)
class Schedule:
    """A factor for each step; a hyper-parameter is its group's base value times that factor.

    Call it with a step: an int, or an array of steps (NumPy, torch, JAX, also under `jax.jit`), and get the factor.
    It holds the value of step 0 before step 0, and its last value past its end. Schedules are immutable, compare by
    value, pickle, and print as the code that makes them.

    A schedule of your own is a frozen, keyword-only dataclass derived from this class, with a `factor` written in
    functions of `stepwell.algebra`. Fields made with `stepwell.schedules.fields` are checked, and lengths among them
    resolved, without further ado. It is known by its class's name, in texts and files too; a later class of the same
    name replaces the earlier one.
    """

    needs_horizon: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not cls.__name__.startswith("_"):
            _KINDS[cls.__name__] = cls

    def __new__(cls, *_: Any, **given: Any) -> Self:
        known = {field.name: field for field in fields(cls)}
        for name in given:
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise TypeError(f"unknown argument {name!r} for {cls.__name__}; {takes}{meant(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for field in fields(self):
            if "check" in field.metadata:
                object.__setattr__(self, field.name, field.metadata["check"](field.name, getattr(self, field.name)))
        if self._own_horizon is not None:
            self.check_fits(self._own_horizon)

    def __call__(self, step: Any) -> Any:
        """The factor at `step`. Raises ValueError where the horizon is needed and not known."""
        if step.__class__ is int:
            return self._at(step)
        return self._resolved.factor(maximum(_wide(step), 0))

    def factor(self, step: Any) -> Any:
        """The factor at a step that is at least 0, given that all lengths are steps. Call the schedule instead."""
        raise NotImplementedError(f"{type(self).__name__} does not define factor()")

    def resolve(self, horizon: int | None = None) -> Self:
        """The same schedule with every length in steps.

        A schedule that has a horizon of its own keeps it; `horizon` is for one that has none. Shares are rounded to
        the nearest step: neither 0.29 · 100 = 28.999… nor 0.07 · 100 = 7.000…1, as floats have it, moves a boundary.
        (The Trainer of transformers rounds its `warmup_ratio` up: there a warm-up can be one step longer.) A length
        that must be at least one step is one where its share rounds to none, so that a trial of a few steps runs; and
        where two shares that fit in the horizon round to more than it, the later one is what is left.

        Args:
            horizon: total optimizer steps, at least 1.

        Raises:
            ValueError: a length is a share or the shape ends at the horizon, and no horizon is known; or a length
                does not fit in the horizon.
        """
        known = self._own_horizon or check_horizon("horizon", horizon)
        if known is not None:
            self.check_fits(known)
        changes: dict[str, Any] = {}
        for field in _lengths(self):
            least, after = field.metadata["least"], field.metadata["after"]
            most = known - changes[after] if after and known is not None else None
            changes[field.name] = _in_steps(getattr(self, field.name), known, self, least, most)
        if self.needs_horizon:
            required(known, self)
        if "horizon" in _names(self):
            changes["horizon"] = known
        changed = {name: value for name, value in changes.items() if value != getattr(self, name)}
        resolved = replace(self, **changed) if changed else self
        if known is not None:
            resolved.check_fits(known)
        return resolved

    def stretched(self, horizon: int | None) -> Self:
        """The same schedule over another horizon: shares follow it, lengths in steps stay.

        So do the schedules inside that end with it, also those that had a horizon of their own. None leaves the horizon
        to whoever resolves the schedule.
        """
        changes: dict[str, Any] = {"horizon": horizon} if "horizon" in _names(self) else {}
        return replace(self, **changes)

    def without_warmup(self) -> Schedule:
        """The same schedule from the end of its warm-up on; itself, where the rise is part of its shape."""
        changes: dict[str, Any] = {"warmup": 0} if "warmup" in _names(self) else {}
        return replace(self, **changes)

    def check_fits(self, horizon: int) -> None:
        """Raise ValueError for a length in steps, or for two of which one comes after the other, beyond the horizon."""
        for field in _lengths(self):
            name, before, value = field.name, field.metadata["after"], getattr(self, field.name)
            if field.metadata["fits"] and isinstance(value, int) and value > horizon:
                raise ValueError(f"{name} must be at most the horizon of {horizon} steps, got {value}")
            if before and not _fit(first := getattr(self, before), value, horizon):
                raise ValueError(
                    f"{before} and {name} together must fit in the horizon of {horizon} steps, "
                    f"got {before} {first} and {name} {value}"
                )

    @property
    def _own_horizon(self) -> int | None:
        found: int | None = self.__dict__.get("horizon")
        return found

    @cached_property
    def _resolved(self) -> Self:
        return self.resolve()

    @cached_property
    def _at(self) -> Callable[[int], Any]:
        """The factor at one step, as straight Python: a scheduler asks for it in every step of a training."""
        resolved = self._resolved
        return as_python(lambda step: resolved.factor(maximum(step, 0)), type(self).__name__)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _names(self)}

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in given(self).items())
        return f"{type(self).__name__}({', '.join(shown)})"


def schedule_class(name: str) -> type[Schedule]:
    """The schedule of that name; case, dashes and underscores do not matter. Raises ValueError with the nearest."""
    folded = {_folded(known): kind for known, kind in _KINDS.items()}
    if _folded(name) not in folded:
        raise ValueError(f"unknown schedule {name!r}{_meant(name, folded)}; known are {', '.join(sorted(_KINDS))}")
    return folded[_folded(name)]


def _meant(name: str, folded: Mapping[str, type[Schedule]]) -> str:
    """A clause on the schedule that was probably meant, also by the name that another package gives it."""
    if "plateau" in _folded(name):
        return "; stepwell.ReduceOnPlateau, which listens to a metric, is no schedule"
    if _folded(name) == "warmupstabledecay":
        return nearest("WSD", _KINDS)
    first = _folded(SEAM.split(name)[0])  # of "cosine_annealing", of "CosineAnnealingLR"
    return nearest(name, _KINDS) or (nearest(folded[first].__name__, _KINDS) if first in folded else "")


def made(kind: type[Schedule], arguments: Mapping[str, Any], where: str = "") -> Schedule:
    """The schedule with these arguments. Raises TypeError where one is unknown or missing; `where` says in that error
    where it is to be given, for example " in lr_scheduler_kwargs"."""
    known = {field.name: field for field in fields(kind)}
    missing = [name for name, field in known.items() if field.default is MISSING and name not in arguments]
    if missing and set(arguments) <= set(known):
        raise TypeError(f"{kind.__name__} needs {' and '.join(missing)}: give {'=…, '.join(missing)}=…{where}")
    return kind(**arguments)


def schedule_names() -> list[str]:
    """The names of all schedules, in alphabetical order."""
    return sorted(_KINDS)


def given(schedule: Schedule) -> dict[str, Any]:
    """The fields that do not stand at their default, by name."""
    values = {field.name: (getattr(schedule, field.name), field.default) for field in fields(schedule) if field.init}
    return {name: value for name, (value, default) in values.items() if default is MISSING or value != default}


def required(horizon: int | None, schedule: Schedule) -> int:
    """The horizon that `schedule` cannot do without. Raises ValueError where it is not known."""
    if horizon is None:
        raise ValueError(
            f"{schedule!r} needs a horizon, the total number of optimizer steps: give horizon= to the schedule or to "
            "its scheduler, or call resolve(horizon)"
        )
    return horizon


def in_steps(length: Length, horizon: int | None, schedule: Schedule, least: int = 0, most: int | None = None) -> int:
    """A length of `schedule` in steps, a share as at least `least` and, which counts for more, at most `most`.

    Raises ValueError where it is a share of a horizon that is not known.
    """
    if isinstance(length, int):
        return length
    steps = max(round(length * required(horizon, schedule)), least)
    return steps if most is None else min(steps, most)


def outlasting(own: int | None, slot: int | None) -> int | None:
    """The horizon that a composition still names when its lengths are steps: its own, where its slot is shorter.

    It is resolved again with the schedule that it is a piece of, and must not take the slot for its horizon then.
    """
    return own if own is not None and slot is not None and own > slot else None


def _wide(step: Any) -> Any:
    """Whole numbers of 8 or 16 bits with more of them: a sum of steps and a length must fit."""
    dtype: Any = getattr(step, "dtype", None)
    return step.astype("int32") if getattr(dtype, "kind", None) in ("i", "u") and dtype.itemsize < 4 else step


def _in_steps(value: Any, horizon: int | None, schedule: Schedule, least: int, most: int | None) -> Any:
    if isinstance(value, tuple):
        return tuple(in_steps(one, horizon, schedule, least, most) for one in value)
    return None if value is None else in_steps(value, horizon, schedule, least, most)


def _fit(first: Length, then: Length, horizon: int) -> bool:
    """Do two lengths fit in the horizon one after the other? Shares do up to the whole, however each is rounded."""
    if isinstance(first, float) and isinstance(then, float) and first + then <= 1:
        return True
    return sum(round(one * horizon) if isinstance(one, float) else one for one in (first, then)) <= horizon


def _lengths(schedule: Schedule) -> list[Field[Any]]:
    return [field for field in fields(schedule) if field.metadata.get("length")]


def _names(schedule: Schedule) -> list[str]:
    return [field.name for field in fields(schedule)]


def _folded(name: str) -> str:
    return str(name).casefold().replace("-", "").replace("_", "").replace(" ", "")
