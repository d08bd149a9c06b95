"""What a field of a schedule may hold: lengths, factors, counts and choices, each with the error for what it may not.

A schedule declares its fields with these, and its base class checks them all when it is made:

    warmup: Length = length(0)
    end: float = factor(0.0)
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field
from functools import partial
from typing import Any

from stepwell.text.naming import nearest
from stepwell.text.numbers import as_float
from stepwell.text.values import shown

Length = int | float
"""Steps (an int), or a share of the horizon (a float strictly between 0 and 1)."""


def horizon() -> Any:
    """A field for the total number of optimizer steps, or None where it is left to others."""
    return _checked(check_horizon, None)


def length(default: Any = MISSING, *, least: int = 0, fits: bool = True, after: str = "") -> Any:
    """A field for a length. None is taken where it is the default.

    `fits` refuses one longer than the horizon, and `after`, the name of a length that is declared before it, one with
    which that goes beyond the horizon.
    """
    check = partial(check_length, least=least)
    notes = {"length": True, "least": least, "fits": fits, "after": after}
    return _checked(_or_none(check) if default is None else check, default, **notes)


def lengths(*, least: int = 0) -> Any:
    """A field for a tuple of lengths, in ascending order."""
    return _checked(partial(check_lengths, least=least), MISSING, length=True, least=least, fits=False, after="")


def factor(default: Any = MISSING) -> Any:
    """A field for a factor: a finite number of at least 0."""
    return _checked(_or_none(check_factor) if default is None else check_factor, default)


def number(
    default: Any = MISSING, *, above: float | None = None, least: float | None = None, most: float = math.inf
) -> Any:
    """A field for a finite number in a range, whose lower end is left out (`above`) or not (`least`)."""
    check = partial(check_number, above=above, least=least, most=most)
    return _checked(_or_none(check) if default is None else check, default)


def count(default: Any = MISSING, *, least: int = 1) -> Any:
    """A field for a whole number, or None where that is the default."""
    check = partial(check_count, least=least)
    return _checked(_or_none(check) if default is None else check, default)


def choice(default: str, known: Iterable[str]) -> Any:
    """A field for one of the known names."""
    return _checked(partial(check_choice, known=tuple(known)), default)


def flag(default: bool = False) -> Any:
    """A field for True or False."""
    return _checked(check_flag, default)


def _checked(check: Callable[[str, Any], Any], default: Any, **notes: Any) -> Any:
    metadata: Mapping[str, Any] = {"check": check, **notes}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def check_horizon(name: str, value: Any) -> int | None:
    """The horizon as an int of at least 1, or None. Raises TypeError or ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number of steps (int), got {shown(value)}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 step, got {shown(value)}")
    return _countable(name, int(value))


def check_length(name: str, value: Any, least: int = 0) -> Length:
    """The length as an int of at least `least`, or as a share. Raises TypeError or ValueError."""
    if isinstance(value, float):
        if not 0 < value < 1:
            hint = f"; write {int(value)} for steps" if value.is_integer() and value >= least else ""
            raise ValueError(
                f"{name} is a share of the horizon when it is a float, strictly between 0 and 1, got {value!r}{hint}"
            )
        return float(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be steps (int) or a share of the horizon (float), got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
    return _countable(name, int(value))


def check_lengths(name: str, value: Any, least: int = 0) -> tuple[Length, ...]:
    """The lengths as a tuple, checked one by one."""
    if isinstance(value, (int, float, str)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of steps or shares, got {shown(value)}")
    return tuple(check_length(f"{name}[{index}]", one, least) for index, one in enumerate(value))


def check_factor(name: str, value: Any) -> float:
    """The factor as it is: a finite number of at least 0. Raises TypeError or ValueError."""
    return check_number(name, value, least=0)


def check_number(
    name: str, value: Any, above: float | None = None, least: float | None = None, most: float = math.inf
) -> float:
    """The number as a float. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    found = as_float(value)
    low = (above is None or found > above) and (least is None or found >= least)
    if not (math.isfinite(found) and low and found <= most):
        bounds = [f"above {above:g}"] if above is not None else [f"of at least {least:g}"] if least is not None else []
        bounds += [f"at most {most:g}"] if most < math.inf else []
        raise ValueError(f"{name} must be a finite number{' ' * bool(bounds)}{' and '.join(bounds)}, got {value!r}")
    return found


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The whole number. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number (int), got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
    return _countable(name, int(value))


def _countable(name: str, value: int) -> int:
    """A number of steps that a float can hold. Raises ValueError."""
    if math.isinf(as_float(value)):
        raise ValueError(f"{name} must be at most {sys.float_info.max:.4g}, got {shown(value)}")
    return value


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """The name as it is. Raises ValueError with the nearest known one."""
    if value not in known:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, known))}, got {shown(value)}{nearest(value, known)}"
        )
    return str(value)


def check_flag(name: str, value: Any) -> bool:
    """The flag as it is. Raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value
