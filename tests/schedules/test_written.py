"""A schedule's arithmetic as straight Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.algebra import absolute, cos, exp, floor, log, maximum, minimum, sign, sqrt, where
from stepwell.schedules import Linear, MultiStep, Schedule, sequence
from stepwell.schedules.written import as_python


def everything(step: Any) -> Any:
    """Each function and operator of the algebra."""
    half = step / 2 - 3
    wave = cos(half) + sqrt(absolute(half)) + log(step + 1) + exp(-half / 9) + floor(half) * sign(half)
    bounded = minimum(maximum(wave, -1.5), 2.0) + maximum(half, wave) ** 2
    return where(step >= 4, bounded, where(step > 2, -wave, where(step <= 1, 0.25, where(step < 2, half, 2**-step))))


@given(st.integers(0, 10**6))
def test_it_is_the_function(step: int) -> None:
    assert as_python(everything, "everything")(step) == pytest.approx(everything(step), rel=1e-15)


def test_only_the_branch_that_is_taken_is_worked_out() -> None:
    def guarded(step: Any) -> Any:
        return where(step < 5, 1.0, sqrt(step - 5))

    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        math.sqrt(-2)
    assert as_python(guarded, "guarded")(3) == 1.0
    assert as_python(guarded, "guarded")(9) == 2.0


def test_constants_are_floats() -> None:
    assert as_python(lambda _: 1, "one")(5) == 1.0
    assert type(as_python(lambda _: 1, "one")(5)) is float
    assert as_python(lambda step: where(step < 3, math.inf, 0.0), "infinite")(2) == math.inf


def test_what_does_more_than_arithmetic_is_called_as_it_is() -> None:
    table = [1.0, 0.5, 0.25]

    def looked_up(step: int) -> float:
        return table[min(step, 2)]

    assert as_python(looked_up, "looked_up") is looked_up


def test_long_chains_and_many_boundaries() -> None:
    def chain(step: Any) -> Any:
        value = step
        for number in range(500):
            value = value * 0.99 + number
        return value

    assert as_python(chain, "chain")(7) == chain(7)
    milestones = list(range(1, 400))
    assert MultiStep(at=milestones, gamma=0.99)(399) == pytest.approx(0.99**399)
    pieces = [Linear(horizon=1, end=1 / (1 + index)) for index in range(150)]
    assert sequence(*pieces, at=range(2, 300, 2))(299) == 1 / 150


def test_a_users_error_is_the_users() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(Schedule):
        def factor(self, step: Any) -> Any:
            raise RuntimeError("as its author wrote it")

    with pytest.raises(RuntimeError, match=r"^as its author wrote it$"):
        Broken()(3)
