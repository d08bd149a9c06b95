"""NaN and infinity in gradients: ignored, refused before anything has changed, or skipped without a trace."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import PLAIN_CASES, Case, assert_same_bits, rows_and_engines
from conformance.training import copies, give_gradients, numbers_of, parameters_of, slots_of, train, weights
from stepwell import Optimizer

BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
CLIPPING = pytest.mark.parametrize("clip_norm", [None, 1.0], ids=["", "clipped"])
NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")


def _bad_gradients(parameters: list[Tensor], step: int, bad: float, *indices: int) -> None:
    give_gradients(parameters, step)
    for index in indices:
        parameters[index].grad.reshape(-1)[-1] = bad


def _all_of(optimizer: Optimizer) -> dict[str, Any]:
    return {
        "weights": copies(parameters_of(optimizer)),
        "slots": copies(slots_of(optimizer)),
        "numbers": numbers_of(optimizer),
    }


def _assert_untouched(optimizer: Optimizer, before: dict[str, Any]) -> None:
    after = _all_of(optimizer)
    assert_same_bits(after["weights"], before["weights"])
    assert_same_bits(after["slots"], before["slots"])
    assert after["numbers"] == before["numbers"]


@BAD
@CLIPPING
@rows_and_engines(PLAIN_CASES)
def test_raise_names_the_first_bad_parameter(case: Case, engine: str, clip_norm: float | None, bad: float) -> None:
    parameters = weights(case)
    named = list(zip(NAMES, parameters, strict=True))
    optimizer = Optimizer(named, case.rule, engine=engine, clip_norm=clip_norm, on_nonfinite="raise")
    train(optimizer, parameters, last=2)
    before = _all_of(optimizer)
    _bad_gradients(parameters, 3, bad, 3)
    with pytest.raises(
        FloatingPointError,
        match=r"^the gradient of parameter 'fourth' holds NaN or infinity; no weight has changed$",
    ):
        optimizer.step()
    _bad_gradients(parameters, 3, bad, 2, 3)
    with pytest.raises(FloatingPointError, match=r"^the gradient of parameter 'third' \(and of 1 more\) holds NaN or"):
        optimizer.step()
    _assert_untouched(optimizer, before)
    assert optimizer.skipped == 0


@BAD
@CLIPPING
@rows_and_engines(PLAIN_CASES)
def test_skip_leaves_no_trace(case: Case, engine: str, clip_norm: float | None, bad: float) -> None:
    parameters, expected = weights(case), weights(case)
    options: dict[str, Any] = {"engine": engine, "clip_norm": clip_norm}
    optimizer = Optimizer(parameters, case.rule, on_nonfinite="skip", **options)
    plain = Optimizer(expected, case.rule, **options)
    train(optimizer, parameters, last=2)
    train(plain, expected, last=2)
    before = _all_of(optimizer)
    for _ in range(3):
        _bad_gradients(parameters, 3, bad, 3)
        assert optimizer.step(lambda: "loss") == "loss"
    _assert_untouched(optimizer, before)
    assert optimizer.skipped == 3
    train(optimizer, parameters, first=3)  # and the training goes on as if nothing had been
    train(plain, expected, first=3)
    _assert_untouched(optimizer, _all_of(plain))


@rows_and_engines(PLAIN_CASES)
def test_a_skipped_first_step_makes_no_state(case: Case, engine: str) -> None:
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine, on_nonfinite="skip")
    _bad_gradients(parameters, 1, math.nan, 3)
    optimizer.step()
    assert optimizer.skipped == 1
    assert optimizer.state_dict()["state"] == {}


@rows_and_engines(PLAIN_CASES)
def test_finite_gradients_pass(case: Case, engine: str) -> None:
    parameters, expected = weights(case), weights(case)
    watched = Optimizer(parameters, case.rule, engine=engine, on_nonfinite="raise")
    plain = Optimizer(expected, case.rule, engine=engine)
    train(watched, parameters)
    train(plain, expected)
    assert_same_bits(parameters_of(watched), parameters_of(plain))
    assert plain.gradient_norm is None
    # The norm of the last gradients, worked out by torch.
    norm = torch.linalg.vector_norm(torch.stack([p.grad.double().norm() for p in expected]))
    assert watched.gradient_norm == pytest.approx(float(norm), rel=1e-6)


@BAD
@rows_and_engines(PLAIN_CASES)
def test_ignore_goes_on(case: Case, engine: str, bad: float) -> None:
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine)
    _bad_gradients(parameters, 1, bad, 3)
    optimizer.step()
    assert [numbers["step"] for numbers in numbers_of(optimizer)] == [1] * len(parameters)
    assert optimizer.skipped == 0
    assert all(bool(p.isfinite().all()) for index, p in enumerate(parameters) if index != 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_nonfinite": "skp"}, ValueError,
         r"^on_nonfinite must be one of 'ignore', 'raise', 'skip', got 'skp' \(did you mean 'skip'\?\)$"),
        ({"on_nonfinite": None}, ValueError, r"^on_nonfinite must be one of 'ignore', 'raise', 'skip', got None$"),
        ({"clip_norm": 0.0}, ValueError, r"^clip_norm must be above 0, got 0.0$"),
        ({"clip_norm": -1}, ValueError, r"^clip_norm must be above 0, got -1$"),
        ({"clip_norm": math.nan}, ValueError, r"^clip_norm must be above 0, got nan$"),
        ({"clip_norm": "1"}, TypeError, r"^clip_norm must be a number above 0, got '1' of type str$"),
        ({"clip_norm": True}, TypeError, r"^clip_norm must be a number above 0, got True of type bool$"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Optimizer(weights(PLAIN_CASES[0]), PLAIN_CASES[0].rule, **options)
