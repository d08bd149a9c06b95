"""Gradients: read and never written, missing, scaled, clipped, turned round, refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import CASES, PLAIN_CASES, Case, assert_near, assert_same_bits, rows, rows_and_engines, such_as
from conformance.training import (
    copies,
    give_gradients,
    numbers_of,
    parameter,
    parameters_of,
    slots_of,
    train,
    trained,
    weights,
)
from stepwell import Optimizer


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1, "on_nonfinite": "skip"}], ids=["", "clipped"])
@rows_and_engines(CASES)
def test_a_step_leaves_the_gradients_as_they_are(case: Case, engine: str, options: dict[str, Any]) -> None:
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine, **options)
    for step in (1, 2):
        give_gradients(parameters, step)
        gradients, before = [p.grad for p in parameters], copies([p.grad for p in parameters])
        optimizer.step()
        assert all(p.grad is gradient for p, gradient in zip(parameters, gradients, strict=True))
        assert_same_bits(gradients, before)


@rows_and_engines(CASES)
def test_without_a_gradient_nothing_happens(case: Case, engine: str) -> None:
    missing, frozen, trained_one = (parameter(case.shapes[3], seed=seed) for seed in range(3))
    frozen.requires_grad_(False)
    before = copies([missing, frozen])
    optimizer = Optimizer([missing, frozen, trained_one], case.rule, engine=engine)
    for step in (1, 2):
        give_gradients([trained_one], step)
        optimizer.step()
    assert_same_bits([missing.detach(), frozen], before)
    assert not optimizer.state.get(missing)
    assert not optimizer.state.get(frozen)
    assert optimizer.state[trained_one]["step"] == 2


@rows_and_engines(CASES)
def test_a_step_without_any_gradient_does_nothing(case: Case, engine: str) -> None:
    parameters = weights(case)
    before = copies(parameters)
    optimizer = Optimizer(parameters, case.rule, engine=engine, clip_norm=1.0, on_nonfinite="raise")
    assert optimizer.step() is None
    assert_same_bits(parameters_of(optimizer), before)


@rows_and_engines(such_as(lambda case: not case.measures))
def test_the_first_gradient_may_come_late(case: Case, engine: str) -> None:
    # Each parameter counts its own updates: bias corrections, warm-up and averages begin when it begins.
    early, late, alone = (parameter(case.shapes[3], seed=1) for _ in range(3))
    optimizer = Optimizer([early, late], case.rule, engine=engine)
    for step in range(1, 6):
        give_gradients([early], step)
        late.grad = early.grad.clone() if step > 2 else None
        optimizer.step()
    single = Optimizer([alone], case.rule, engine=engine)
    train(single, [alone], first=3, last=5)
    assert_same_bits([late.detach()], [alone.detach()])
    assert [numbers["step"] for numbers in numbers_of(optimizer)] == [5, 3]
    assert numbers_of(optimizer)[1] == numbers_of(single)[0]


@rows_and_engines(CASES)
def test_maximizing_is_minimizing_the_negated_gradient(case: Case, engine: str) -> None:
    up = trained(case.but(maximize=True), engine)
    parameters = weights(case)
    down = Optimizer(parameters, case.rule, engine=engine)
    for step in range(1, 5):
        give_gradients(parameters, step, factor=-1.0)
        down.step()
    assert_same_bits(parameters_of(up), parameters_of(down))
    assert_same_bits(slots_of(up), slots_of(down))


@pytest.mark.parametrize("limit", [0.5, 1e6], ids=["clipped", "short enough"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@rows_and_engines(PLAIN_CASES)
def test_clip_norm_is_clip_grad_norm(case: Case, engine: str, dtype: torch.dtype, limit: float) -> None:
    clipping = trained(case, engine, dtype, clip_norm=limit)
    # In float64, so that torch's rewritten gradients are not rounded.
    parameters = weights(case, torch.float64)
    plain = Optimizer(parameters, case.rule, engine="reference")
    for step in range(1, 5):
        give_gradients(parameters, step)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        plain.step()
    assert_near(parameters_of(clipping), parameters_of(plain), case.tolerance(dtype))
    assert clipping.gradient_norm == pytest.approx(float(norm), rel=1e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@rows_and_engines(PLAIN_CASES)
def test_clip_norm_treats_a_non_finite_norm_as_clip_grad_norm_does(case: Case, engine: str, bad: float) -> None:
    def gradients(parameters: list[Tensor]) -> None:
        give_gradients(parameters, 1)
        parameters[3].grad[0, 0] = bad

    clipped, plain = weights(case), weights(case, torch.float64)
    gradients(clipped)
    gradients(plain)
    Optimizer(clipped, case.rule, engine=engine, clip_norm=0.5).step()
    torch.nn.utils.clip_grad_norm_(plain, 0.5)
    Optimizer(plain, case.rule, engine="reference").step()
    assert_near([p.detach() for p in clipped], [p.detach() for p in plain], case.tolerance(torch.float32))


@rows_and_engines(PLAIN_CASES)
def test_the_norm_of_huge_gradients_is_finite(case: Case, engine: str) -> None:
    # Their squares are above what float32 holds.
    parameters = [parameter(case.shapes[3], seed=seed) for seed in range(2)]
    optimizer = Optimizer(parameters, case.rule, engine=engine, clip_norm=1.0, on_nonfinite="raise")
    for p in parameters:
        p.grad = torch.full_like(p, 1e30)
    optimizer.step()
    elements = sum(p.numel() for p in parameters)
    assert optimizer.gradient_norm == pytest.approx(1e30 * math.sqrt(elements), rel=1e-6)
    assert all(bool(p.isfinite().all()) for p in parameters)


@rows_and_engines(PLAIN_CASES)
def test_the_closure_is_called_once_with_gradients_enabled(case: Case, engine: str) -> None:
    parameters, expected = [parameter(case.shapes[3])], [parameter(case.shapes[3])]
    optimizer, plain = (Optimizer(ps, case.rule, engine=engine) for ps in (parameters, expected))
    calls = []

    def loss(p: Tensor) -> Tensor:
        return (p**2).sum() + p.sum()

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        value = loss(parameters[0])
        value.backward()
        return value

    with torch.no_grad():
        returned = optimizer.step(closure)
    loss(expected[0]).backward()
    plain.step()
    assert calls == [True]
    assert returned.item() == loss(parameter(case.shapes[3])).item()
    assert_same_bits(parameters_of(optimizer), parameters_of(plain))


@pytest.mark.parametrize("first", ["dense", "sparse"])
@rows(PLAIN_CASES)
def test_sparse_gradients_are_refused(case: Case, first: str) -> None:
    p, other = parameter((4, 3)), parameter((4, 3), seed=1)
    optimizer = Optimizer([("weight", p), ("table", other)], case.rule)
    if first == "dense":
        train(optimizer, [p, other], last=1)
    before = copies([p, other])
    p.grad = torch.ones_like(p)
    other.grad = torch.ones_like(other).to_sparse()
    with pytest.raises(ValueError, match=r"^the gradient of parameter 'table' is sparse_coo, and only dense gradients"):
        optimizer.step()
    assert_same_bits([p.detach(), other.detach()], before)


@rows_and_engines(such_as(lambda case: case.takes_complex, PLAIN_CASES))
def test_conjugated_gradients(case: Case, engine: str) -> None:
    # Autograd hands out gradients of complex parameters as lazy conjugates.
    lazy, resolved = (torch.tensor([1 + 2j, -0.5 + 1j], requires_grad=True) for _ in range(2))
    for p, settle in ((lazy, False), (resolved, True)):
        optimizer = Optimizer([p], case.rule, engine=engine)
        (p.conj() * torch.tensor([2 - 1j, 1 + 1j])).real.sum().backward()
        assert p.grad.is_conj()
        if settle:
            p.grad = p.grad.resolve_conj()
        optimizer.step()
    assert_same_bits([torch.view_as_real(lazy.detach())], [torch.view_as_real(resolved.detach())])


@rows_and_engines(PLAIN_CASES)
def test_expanded_and_strided_gradients(case: Case, engine: str) -> None:
    # A gradient may lie in memory otherwise than its parameter: here the same numbers, in three layouts.
    shape = case.shapes[3]
    row = parameter((shape[1],), seed=9).detach()
    layouts: dict[str, Callable[[], Tensor]] = {
        "expanded": lambda: row.expand(shape),
        "transposed": lambda: row.expand(shape).t().contiguous().t(),
        "contiguous": lambda: row.expand(shape).contiguous(),
    }
    results = []
    for gradient in layouts.values():
        p = parameter(shape)
        p.grad = gradient()
        Optimizer([p], case.rule, engine=engine).step()
        results.append(p.detach())
    assert_same_bits(results[:2], [results[2]] * 2)


@rows_and_engines(such_as(lambda case: case.name in ("SGD", "AdamW", "Adafactor", "Muon", "ema(AdamW)"), PLAIN_CASES))
def test_gradients_of_more_bits_than_their_weights(case: Case, engine: str) -> None:
    """torch takes gradients of another dtype where `grad_dtype` says so. Here float16 could not hold them; a parameter
    whose gradients come in 16 bits stands beside."""
    found = []
    for kind in (engine, "reference"):
        wide, narrow = (parameter(case.shapes[3], torch.float16, seed=seed) for seed in (0, 1))
        wide.grad_dtype = torch.float32
        rule, kept = case.rule.but(lr=1e-3), {"state_dtype": "float32", "master": "float32"}
        optimizer = Optimizer([wide, narrow], rule, engine=kind, clip_norm=1e6, **kept)
        for step in range(3):
            give_gradients([narrow], step)
            wide.grad = 1e5 * parameter(wide.shape, seed=10 + step).detach()
            optimizer.step()
        found.append(parameters_of(optimizer))
    assert all(p.isfinite().all() for p in found[0])
    assert_near(found[0], found[1], case.tolerance(torch.float16))
