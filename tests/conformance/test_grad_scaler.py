"""Scaled gradients: what `torch.amp.GradScaler` hands over is used, and nothing is rewritten."""

from __future__ import annotations

import pytest
import torch

from conformance.cases import PLAIN_CASES, Case, assert_near, assert_same_bits, rows_and_engines
from conformance.training import copies, give_gradients, numbers_of, parameter, parameters_of, slots_of, train, weights
from stepwell import Optimizer

SCALE = 1024.0  # a power of two: scaling and unscaling round nothing


@rows_and_engines(PLAIN_CASES)
def test_grad_scale_and_found_inf(case: Case, engine: str) -> None:
    parameters, expected = weights(case), weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine)
    train(Optimizer(expected, case.rule, engine=engine), expected, last=3)
    optimizer.grad_scale = torch.tensor(SCALE)
    for step, found_inf in ((1, 0.0), (2, 0.0), (2, 1.0), (3, 0.0)):
        give_gradients(parameters, step, factor=SCALE)
        gradients = copies([p.grad for p in parameters])
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        assert_same_bits([p.grad for p in parameters], gradients)
    assert_same_bits(parameters_of(optimizer), [p.detach() for p in expected])
    assert [numbers["step"] for numbers in numbers_of(optimizer)] == [3] * len(parameters)
    assert optimizer.skipped == 1


@rows_and_engines(PLAIN_CASES)
def test_clipping_sees_the_unscaled_norm(case: Case, engine: str) -> None:
    parameters, expected = weights(case), weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine, clip_norm=1.0)
    plain = Optimizer(expected, case.rule, engine=engine, clip_norm=1.0)
    optimizer.grad_scale = torch.tensor(SCALE)
    for step in (1, 2):
        give_gradients(parameters, step, factor=SCALE)
        optimizer.step()
    train(plain, expected, last=2)
    assert_near(parameters_of(optimizer), parameters_of(plain), case.tolerance(torch.float32))
    assert optimizer.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-6)


@pytest.mark.parametrize("unscale_first", [False, True], ids=["", "unscaled"])
@rows_and_engines(PLAIN_CASES)
def test_a_real_grad_scaler(case: Case, engine: str, unscale_first: bool) -> None:
    shape = case.shapes[3]
    scaled, expected = parameter(shape), parameter(shape)
    inputs = [parameter(shape, seed=10 + step).detach() for step in range(4)]
    optimizer = Optimizer([scaled], case.rule, engine=engine)
    plain = Optimizer([expected], case.rule, engine=engine)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for step, x in enumerate(inputs):
        optimizer.zero_grad()
        overflow = float("inf") if step == 1 else 1.0
        scaler.scale((scaled * x).sum() * overflow).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if step != 1:
            plain.zero_grad()
            (expected * x).sum().backward()
            plain.step()
    assert_same_bits(parameters_of(optimizer), parameters_of(plain))
    assert_same_bits(slots_of(optimizer), slots_of(plain))
    assert numbers_of(optimizer)[0]["step"] == 3
    assert optimizer.skipped == 1
    assert scaler.get_scale() == SCALE / 2
    assert not hasattr(optimizer, "grad_scale")
