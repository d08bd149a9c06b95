"""Every engine gives what the reference gives, in every dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from conformance.cases import (
    BY_SIGN,
    CASES,
    DTYPES,
    PLAIN_CASES,
    Case,
    assert_near,
    assert_same_bits,
    rows,
    rows_and_engines,
    such_as,
)
from conformance.training import (
    assert_slots_are_as_declared,
    numbers_of,
    parameter,
    parameters_of,
    slots_of,
    train,
    trained,
)
from stepwell import Optimizer

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.float16], ids=str)
@rows_and_engines(CASES)
def test_weights_and_slots_are_the_float64_references(case: Case, engine: str, dtype: torch.dtype) -> None:
    _assert_reference(case, engine, dtype)


@rows_and_engines(CASES, fused_variants=False)
def test_weights_and_slots_in_float16(case: Case, engine: str) -> None:
    _assert_reference(case, engine, torch.float16)


def _assert_reference(case: Case, engine: str, dtype: torch.dtype) -> None:
    optimizer, expected = trained(case, engine, dtype), trained(case, "reference", torch.float64)
    assert_near(parameters_of(optimizer), parameters_of(expected), case.tolerance(dtype))
    assert_near(slots_of(optimizer), slots_of(expected), case.tolerance(dtype))
    for ours, theirs in zip(numbers_of(optimizer), numbers_of(expected), strict=True):
        # What is measured is a sum over weights that have been rounded.
        assert ours == pytest.approx(theirs, rel=1e-14, abs=case.tolerance(dtype) if case.measures else 0.0)
    assert_slots_are_as_declared(optimizer, case)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}-{dtype}")
        for case in such_as(lambda case: "fused" in case.engines)
        for dtype in SIXTEEN_BITS
        if dtype != torch.float16 or case in PLAIN_CASES
    ],
)
def test_sixteen_bits_are_rounded_once_to_the_nearest(case: Case, dtype: torch.dtype) -> None:
    # Worked in float32 and in float64, a number rounds to another neighbour only if it lies all but half way between.
    fused, reference = trained(case, "fused", dtype, steps=1), trained(case, "reference", dtype, steps=1)
    for a, e in zip(
        parameters_of(fused) + slots_of(fused), parameters_of(reference) + slots_of(reference), strict=True
    ):
        assert int((a != e).sum()) <= max(1.0, 0.01 * a.numel())
        torch.testing.assert_close(a, e, rtol=torch.finfo(dtype).eps, atol=0, equal_nan=True)  # a mean of nothing


@rows(such_as(lambda case: "fused" in case.engines))
def test_fused_tensors_of_several_chunks(case: Case, set_threads: Callable[[int], None]) -> None:
    set_threads(2)

    # Chunks are 65,536 elements: two and a bit here, and a small tensor before and after. Weights and gradients have
    # the same signs, so that nothing cancels and float32 can be held against float64 at every one of them.
    def run(engine: str, dtype: torch.dtype) -> list[torch.Tensor]:
        shapes = [(3,), (140_000,), (2, 2)]
        parameters = [parameter(shape, dtype, seed) for seed, shape in enumerate(shapes)]
        optimizer = Optimizer(parameters, case.rule, engine=engine)
        for step in (1, 2):
            for seed, p in enumerate(parameters):
                sizes = parameter(p.shape, dtype, seed=10 * step + seed).detach().abs()
                p.grad = parameter(p.shape, dtype, seed).detach().sign() * (sizes + 0.5)
            optimizer.step()
        return parameters_of(optimizer)

    assert_near(run("fused", torch.float32), run("reference", torch.float64), case.tolerance(torch.float32))


@rows_and_engines(CASES, reference=False)
def test_dtypes_side_by_side_in_one_group(case: Case, engine: str) -> None:
    shape = case.shapes[3]
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float32)
    together = [parameter(shape, dtype, seed) for seed, dtype in enumerate(dtypes)]
    optimizer = Optimizer(together, case.rule, engine=engine)
    train(optimizer, together)
    for seed, dtype in enumerate(dtypes):
        expected = [parameter(shape, torch.float64, seed=number) for number in range(len(dtypes))]
        train(Optimizer(expected, case.rule, engine="reference"), expected)
        assert together[seed].dtype == dtype
        assert_near([together[seed]], [expected[seed]], case.tolerance(dtype))


@rows(such_as(lambda case: "fused" in case.engines))
def test_auto_is_fused_on_a_cpu(case: Case) -> None:
    assert_same_bits(parameters_of(trained(case, "auto")), parameters_of(trained(case, "fused")))


@rows_and_engines(CASES)
def test_nan_and_infinity_are_seen(case: Case, engine: str) -> None:
    # No engine may reason NaN or infinity away: where the reference has them, so has it, and nowhere else.
    def run(engine: str, dtype: torch.dtype) -> list[torch.Tensor]:
        parameters = [parameter(case.shapes[3], dtype, seed) for seed in range(3)]
        optimizer = Optimizer(parameters, case.rule, engine=engine)
        for step in (1, 2):
            for index, p in enumerate(parameters):
                p.grad = parameter(case.shapes[3], dtype, seed=10 * step + index).detach()
            parameters[0].grad[1, 1] = float("nan")
            parameters[1].grad[0, 2] = float("inf")
            optimizer.step()
        return parameters_of(optimizer)

    actual, expected = run(engine, torch.float32), run("reference", torch.float64)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a.isfinite(), e.isfinite())
    assert_near(actual[2:], expected[2:], case.tolerance(torch.float32))
    if not any(name in case.name for name in (*BY_SIGN, "AdaMuon", "sign")):
        assert not actual[0].isfinite().all()
