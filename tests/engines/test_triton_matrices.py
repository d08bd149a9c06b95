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
from stepwell.optimizer.snapshot import Snapshot
from stepwell.rules import SOAP, AdaMuon, AdamW, Dion, Muon, NorMuon, Rule, Scion

of_matrices = pytest.mark.parametrize(
    "rule",
    [Muon(lr=0.05), NorMuon(lr=0.05), AdaMuon(lr=0.05), Scion(lr=0.05), Dion(lr=0.05)],
    ids=lambda rule: type(rule).__name__,
)
beside_or_not = pytest.mark.parametrize("beside", [True, False], ids=["beside a vector", "alone"])


def _with_matrices(
    rule: Rule, dtype: torch.dtype = torch.float32, *, beside: bool = True, **options: Any
) -> tuple[Optimizer, list[Tensor]]:
    """Two matrices under a rule of matrices, and beside them a vector."""
    parameters = [parameter((6, 4), dtype), parameter((4, 3), dtype, seed=1)]
    if not beside:
        return Optimizer(parameters, rule, engine="fused", **options), parameters
    vector = parameter((5,), dtype, seed=2)
    groups = [{"params": parameters, "rule": rule}, {"params": [vector]}]
    return Optimizer(groups, AdamW(lr=0.05), engine="fused", **options), [*parameters, vector]


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
@beside_or_not
@pytest.mark.parametrize(("dtype", "master"), [(torch.float32, None), (torch.bfloat16, "kahan")], ids=str)
def test_a_step_with_matrices_is_left_out(rule: Rule, dtype: torch.dtype, master: Any, beside: bool) -> None:
    optimizer, parameters = _with_matrices(
        rule, dtype, beside=beside, master=master, clip_norm=0.5, on_nonfinite="skip"
    )
    expected, others = _with_matrices(rule, dtype, beside=beside, master=master, clip_norm=0.5)
    train(optimizer, parameters, last=3)
    before = copies(all_of(optimizer))
    for index in (0, -1):
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
@beside_or_not
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "on_nonfinite": "skip"}], ids=str)
def test_a_graph_with_matrices_reads_the_learning_rate(
    rule: Rule, options: dict[str, Any], beside: bool, monkeypatch: Any, caplog: Any
) -> None:
    ours, parameters = _with_matrices(rule, beside=beside, **options)
    plain, expected = _with_matrices(rule, beside=beside, **options)
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


@beside_or_not
@pytest.mark.parametrize("lies", ["dense", "transposed", "with gaps", "expanded"])
def test_the_norm_of_matrices_however_their_gradients_lie(lies: str, beside: bool) -> None:
    matrix, vector = parameter((6, 4)), parameter((5,), seed=1)
    groups = [{"params": [matrix], "rule": Muon(lr=0.05)}, {"params": [vector]}]
    optimizer = Optimizer(groups if beside else groups[:1], AdamW(lr=0.05), engine="fused", clip_norm=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        whole = torch.randn(12, 12, generator=generator)
        matrix.grad = {
            "dense": whole[:6, :4].clone(),
            "transposed": whole[:4, :6].clone().T,
            "with gaps": whole[::2, ::3],
            "expanded": whole[:1, :4].expand(6, 4),
        }[lies]
        vector.grad = torch.randn(5, generator=generator) if beside else None
        optimizer.step()
        gradients = [p.grad for p in (matrix, vector) if p.grad is not None]
        expected = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        assert optimizer.gradient_norm == pytest.approx(expected, rel=1e-6)
    assert isinstance(optimizer._gradient_norm, Tensor)  # the host has not waited


@pytest.mark.parametrize("rule", [AdamW(lr=0.05), Muon(lr=0.05)], ids=lambda rule: type(rule).__name__)
def test_what_a_snapshot_takes_back_the_device_has_not_counted(rule: Rule) -> None:
    """Within it the device begins to count; afterwards the states hold the host's numbers again."""

    def made() -> tuple[Optimizer, list[Tensor]]:
        parameters = [parameter((6, 4)), parameter((4, 3), seed=1)]
        return Optimizer(parameters, rule, engine="fused", on_nonfinite="skip"), parameters

    (ours, found), (plain, expected) = made(), made()
    for optimizer, parameters in ((ours, found), (plain, expected)):
        train(optimizer, parameters, last=1)
    with Snapshot(ours):
        train(ours, found, first=2, last=4)
        assert isinstance(ours.state[found[0]]["step"], Tensor)
    for optimizer, parameters in ((ours, found), (plain, expected)):
        train(optimizer, parameters, first=2, last=4)
    assert_same_bits([p.detach() for p in found], [p.detach() for p in expected])
    assert [float(ours.state[p]["step"]) for p in found] == [4.0, 4.0]
