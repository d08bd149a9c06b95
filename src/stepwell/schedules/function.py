"""A Python function of the step as a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import minimum
from stepwell.algebra.tracing import Expression
from stepwell.schedules import fields
from stepwell.schedules.schedule import Schedule
from stepwell.text.values import shown


@dataclass(frozen=True, kw_only=True, repr=False)
class Function(Schedule):
    """Any Python function of the step, such as one written for torch's `LambdaLR`.

    The function must be pure: the same factor for the same step. It gets an int from a scheduler, and whatever is asked
    for from a plot or from `jax.jit`. One that stands in a module under a name of its own can be pickled and resumed.

    Args:
        function: step → factor, a finite number of at least 0.
        horizon: where the schedule holds; None asks the function for ever, unless the scheduler knows one.
    """

    function: Callable[[Any], Any]
    horizon: int | None = fields.horizon()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise TypeError(f"function must be a function of the step, got {shown(self.function)}")

    def factor(self, step: Any) -> Any:
        if isinstance(step, Expression):
            raise TypeError("a Python function is called, not traced")
        value = self.function(step if self.horizon is None else minimum(step, self.horizon))
        if not isinstance(step, int):
            return value
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise TypeError(f"{self!r} gave {value!r} at step {step}; a factor must be a number")
        factor = float(value)
        if not math.isfinite(factor) or factor < 0:
            raise ValueError(f"{self!r} gave {factor} at step {step}; a factor must be a finite number of at least 0")
        return factor

    def __repr__(self) -> str:
        horizon = "" if self.horizon is None else f", horizon={self.horizon}"
        return f"Function(function={function_name(self.function)}{horizon})"


def function_name(function: Callable[..., Any]) -> str:
    """Where the function can be found: its module and name."""
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)
