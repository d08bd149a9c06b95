"""Rules of matrices on a real GPU: clipped, left out and captured without the host."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import assert_near, assert_same_bits
from engines.test_gpu import give, on_gpu, pytestmark, reference, train, without_waiting  # noqa: F401 - marks too
from stepwell import Optimizer
from stepwell.rules import AdamW, Dion, Muon, NorMuon, Rule, Scion


@pytest.mark.parametrize("beside", [True, False], ids=["beside a vector", "alone"])
def test_clipping_with_matrices_waits_for_nothing(beside: bool) -> None:
    def made() -> tuple[list[Tensor], Optimizer]:
        parameters = on_gpu(((64, 96), (64, 96), (128, 64), (33,))[: None if beside else 3])
        groups = [{"params": parameters[:3], "rule": Muon(lr=0.05)}, {"params": parameters[3:]}]
        return parameters, Optimizer(groups[: 1 + beside], AdamW(lr=0.05), clip_norm=0.5)

    (parameters, optimizer), (expected, plain) = made(), made()
    optimizer.observe()
    train(optimizer, parameters, last=2)
    give(parameters, 3)
    with without_waiting():
        optimizer.step()
    plain.on_nonfinite = "raise"  # then the host asks
    train(plain, expected, last=3)
    assert_near([p.detach() for p in parameters], [p.detach() for p in expected], 1e-5)


@pytest.mark.parametrize(
    "rule", [Muon(lr=0.05), NorMuon(lr=0.05), Scion(lr=0.05), Dion(lr=0.05)], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside a vector", "alone"])
def test_matrices_in_a_graph(rule: Rule, beside: bool) -> None:
    """The learning rate in a tensor is read at each replay, and so is whether the step is left out."""
    lr = torch.tensor(0.05, device="cuda")

    def made(rate: Any) -> tuple[list[Tensor], Optimizer]:
        parameters = on_gpu(((64, 96), (64, 96), (128, 64), (33,))[: None if beside else 3])
        groups = [{"params": parameters[:3], "rule": rule, "lr": rate}, {"params": parameters[3:], "lr": rate}]
        return parameters, Optimizer(groups[: 1 + beside], AdamW(lr=0.05), clip_norm=0.5, on_nonfinite="skip")

    (parameters, optimizer), (expected, plain) = made(lr), made(0.05)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        train(optimizer, parameters, last=3)
    torch.cuda.current_stream().wait_stream(stream)
    train(plain, expected, last=3)
    give(parameters, 4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in (4, 5, 6):
        rate = 0.05 / step
        lr.fill_(rate)
        for ps in (parameters, expected):
            give(ps, step)
            if step == 5:
                assert ps[1].grad is not None
                ps[1].grad[0, 0] = math.inf
        graph.replay()
        for group in plain.param_groups:
            group["lr"] = float(lr)
        plain.step()
    assert optimizer.skipped == plain.skipped == 1
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}
    assert_near([p.detach() for p in parameters], [p.detach() for p in expected], 1e-5)


def test_a_step_with_matrices_is_left_out_without_waiting() -> None:
    parameters = on_gpu(((64, 96), (64, 96), (128, 64), (33,)))
    groups = [{"params": parameters[:3], "rule": Muon(lr=0.05)}, {"params": parameters[3:]}]
    optimizer = Optimizer(groups, AdamW(lr=0.05), clip_norm=0.5, on_nonfinite="skip")
    train(optimizer, parameters, last=2)
    before = [p.detach().clone() for p in parameters]
    give(parameters, 3)
    assert parameters[0].grad is not None
    parameters[0].grad[0, 0] = math.nan
    with without_waiting():
        optimizer.step()
    assert_same_bits([p.detach() for p in parameters], before)
    assert optimizer.skipped == 1


@pytest.mark.parametrize(
    "rule", [Muon(lr=0.05), NorMuon(lr=0.05), Scion(lr=0.05), Dion(lr=0.05)], ids=lambda rule: type(rule).__name__
)
def test_matrices_in_stacks_without_waiting(rule: Rule) -> None:
    shapes = ((64, 96), (96, 64), (64, 96), (2, 32, 32), (64, 96))
    parameters = on_gpu(shapes)
    optimizer = Optimizer(parameters, rule)
    train(optimizer, parameters, last=3)
    give(parameters, 4)
    with without_waiting():
        optimizer.step()
    # The products are in bfloat16, and five steep polynomials carry their rounding on.
    assert_near([p.detach() for p in parameters], reference(rule, shapes), 2e-2)
