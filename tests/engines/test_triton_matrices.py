"""Rules of matrices beside Triton's kernels: whether a step is left out, and a learning rate, where only the device
knows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import assert_near, assert_same_bits
from conformance.training import copies, give_gradients, parameter, train
from engines.test_triton import all_of, pytestmark  # noqa: F401 - these are run as those are
from engines.triton_graph import Graph
from stepwell import Optimizer
from stepwell.rules import SOAP, AdaMuon, AdamW, Dion, Muon, NorMuon, Rule, Scion

of_matrices = pytest.mark.parametrize(
    "rule",
    [Muon(lr=0.05), NorMuon(lr=0.05), AdaMuon(lr=0.05), Scion(lr=0.05), Dion(lr=0.05)],
    ids=lambda rule: type(rule).__name__,
)


def _with_matrices(rule: Rule, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Optimizer, list[Tensor]]:
    """Two matrices under a rule of matrices, and a vector."""
    parameters = [parameter((6, 4), dtype), parameter((4, 3), dtype, seed=1), parameter((5,), dtype, seed=2)]
    groups = [{"params": parameters[:2], "rule": rule}, {"params": parameters[2:]}]
    return Optimizer(groups, AdamW(lr=0.05), engine="fused", **options), parameters


def test_matrices_take_the_factor_of_a_verdict() -> None:
    """The host waits for no norm, though the engine of Muon's matrices cannot leave a step out."""

    def run(**options: Any) -> tuple[Optimizer, list[Tensor]]:
        matrix, vector = parameter((6, 4)), parameter((5,), seed=1)
        groups = [{"params": [matrix], "rule": Muon(lr=0.05)}, {"params": [vector]}]
        optimizer = Optimizer(groups, AdamW(lr=0.05), engine="fused", clip_norm=0.5, **options)
        train(optimizer, [matrix, vector], last=3)
        return optimizer, [matrix, vector]

    (ours, found), (asked, expected) = run(), run(on_nonfinite="raise")
    assert isinstance(ours._gradient_norm, Tensor)
    assert isinstance(asked._gradient_norm, float)
    assert ours.gradient_norm == pytest.approx(asked.gradient_norm, rel=1e-6)
    assert_near([p.detach() for p in found], [p.detach() for p in expected], 1e-6)
    assert_near([ours.state[found[0]]["momentum_buffer"]], [asked.state[expected[0]]["momentum_buffer"]], 1e-6)
    ours.clip_norm = None  # and nothing is left of the last verdict
    asked.clip_norm = None
    for optimizer, parameters in ((ours, found), (asked, expected)):
        train(optimizer, parameters, first=4, last=4)
    assert_near([p.detach() for p in found], [p.detach() for p in expected], 1e-6)


@of_matrices
@pytest.mark.parametrize(("dtype", "master"), [(torch.float32, None), (torch.bfloat16, "kahan")], ids=str)
def test_a_step_with_matrices_is_left_out(rule: Rule, dtype: torch.dtype, master: Any) -> None:
    optimizer, parameters = _with_matrices(rule, dtype, master=master, clip_norm=0.5, on_nonfinite="skip")
    expected, others = _with_matrices(rule, dtype, master=master, clip_norm=0.5)
    train(optimizer, parameters, last=3)
    before = copies(all_of(optimizer))
    for index in (0, 2):  # a matrix, the vector
        give_gradients(parameters, 4)
        parameters[index].grad.view(-1)[0] = math.inf
        optimizer.step()
        assert_same_bits(all_of(optimizer), before)
    assert optimizer.skipped == 2
    assert all(isinstance(state["step"], Tensor) for state in optimizer.state.values())  # no host has counted
    train(optimizer, parameters, first=4, last=5)
    train(expected, others, last=5)
    assert_near([p.detach() for p in parameters], [p.detach() for p in others], 1e-6)
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}


@pytest.mark.parametrize(
    ("rule", "master"), [(SOAP(lr=0.05), None), (Muon(lr=0.05), "stochastic")], ids=("SOAP", "random bits")
)
def test_matrices_that_need_the_step_are_left_out_by_the_host(rule: Rule, master: Any) -> None:
    dtype = torch.bfloat16 if master else torch.float32
    optimizer, parameters = _with_matrices(rule, dtype, master=master, clip_norm=0.5, on_nonfinite="skip")
    train(optimizer, parameters, last=3)
    before = copies(all_of(optimizer))
    give_gradients(parameters, 4)
    parameters[2].grad[0] = math.inf
    optimizer.step()
    assert_same_bits(all_of(optimizer), before)
    assert optimizer.skipped == 1
    assert all(type(state["step"]) is int for state in optimizer.state.values())


@of_matrices
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "on_nonfinite": "skip"}], ids=str)
def test_a_graph_with_matrices_reads_the_learning_rate(
    rule: Rule, options: dict[str, Any], monkeypatch: Any, caplog: Any
) -> None:
    ours, parameters = _with_matrices(rule, **options)
    plain, expected = _with_matrices(rule, **options)
    lr = torch.tensor(0.05)
    for group in ours.param_groups:
        group["lr"] = lr
    places: list[Any] = []
    for step in range(1, 8):
        for optimizer, ps in ((ours, parameters), (plain, expected)):
            give_gradients(ps, step)
            if step == 5 and options:
                ps[1].grad[0, 0] = math.inf
            for group in optimizer.param_groups:
                if optimizer is plain:
                    group["lr"] = float(torch.tensor(0.05 / step))
        lr.fill_(0.05 / step)
        plain.step()
        if step <= 2:
            ours.step()
            continue
        if step == 3:
            places = [p.grad for p in parameters]
            with Graph(monkeypatch) as graph:
                ours.step()
        for p, place in zip(parameters, places, strict=True):
            place.copy_(p.grad)
            p.grad = place
        graph.replay()
    assert not caplog.records
    assert ours.skipped == plain.skipped == len(options) // 2
    assert_near([p.detach() for p in parameters], [p.detach() for p in expected], 1e-6)
    if options:  # then the device counts matrices too
        assert {float(state["step"]) for state in ours.state.values()} == {6.0}
