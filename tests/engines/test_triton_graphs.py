"""CUDA graphs and the steps between their replays."""

from __future__ import annotations

import gc
import math
import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import assert_near
from conformance.training import give_gradients, parameter, parameters_of, train
from engines.triton_graph import Graph
from stepwell import Optimizer
from stepwell.rules import AdamW, Muon, NAdam

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="make test-triton runs it, interpreted"),
]
pytest.importorskip("stepwell.engines.fused.triton_engine")


def without_a_gradient(optimizer: Optimizer, parameters: list[Tensor]) -> None:
    parameters[0].grad = None
    optimizer.step()


def observed(optimizer: Optimizer, parameters: list[Tensor]) -> None:
    optimizer.observe()
    optimizer.step()
    optimizer.observe(False)


def with_a_new_flag(optimizer: Optimizer, parameters: list[Tensor]) -> None:
    flagged = optimizer.param_groups[0]
    flagged["maximize"] = True
    optimizer.step()
    flagged["maximize"] = False


def with_a_new_parameter(optimizer: Optimizer, parameters: list[Tensor]) -> None:
    optimizer.add_param_group({"params": [parameter((3,))]})
    (new,) = optimizer.param_groups[-1]["params"]
    new.grad = torch.ones(3)
    optimizer.step()
    new.grad = None


OTHER_STEPS = [without_a_gradient, observed, with_a_new_flag, with_a_new_parameter]
OPTIONS = [{}, {"clip_norm": 0.5, "on_nonfinite": "skip"}]


@pytest.mark.parametrize("muon", [False, True], ids=["vectors", "beside matrices"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("other", OTHER_STEPS)
def test_between_replays_other_steps_count_where_the_graph_does(
    other: Callable[[Optimizer, list[Tensor]], None],
    options: dict[str, Any],
    muon: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Their buckets are others: the graph's own memory has to outlive that, and both have to count in one place.
    def run(with_graph: bool) -> tuple[list[Tensor], list[float], int]:
        parameters = [parameter(shape, seed=seed) for seed, shape in enumerate([(4, 3), (40,)])]
        groups = [{"params": [p]} for p in parameters]
        groups[0] |= {"rule": Muon(lr=0.05)} if muon else {}
        optimizer = Optimizer(groups, NAdam(lr=0.05, betas=(0.8, 0.9)), engine="fused", **options)
        places = [torch.zeros_like(p) for p in parameters]
        memory: list[Any] = []
        graphs = []
        for step in range(1, 13):
            give_gradients(parameters, step)
            for p, place in zip(parameters, places, strict=True):
                place.copy_(p.grad)
                p.grad = place
            if step == 5 and options:
                places[1][0] = math.inf
            if with_graph and step in (3, 10):  # the second of the buckets that came of the other steps
                with Graph(monkeypatch) as graph:
                    optimizer.step()
                graphs.append(graph)
                prepared = [each for b in optimizer._buckets.latest for each in b.batch.prepared.values()]
                judge = [each for each in (optimizer._verdicts._judge,) if each is not None]
                memory += [weakref.ref(each) for each in (*prepared, *judge) if not isinstance(each, (dict, Tensor))]
            if step in (4, 7):
                other(optimizer, parameters)
            elif with_graph and step not in (1, 2, 8, 9):
                graphs[step % len(graphs)].replay()
            else:
                optimizer.step()
        gc.collect()
        assert all(of_a_graph() is not None for of_a_graph in memory)
        return parameters_of(optimizer), [float(optimizer.state[p]["step"]) for p in parameters], optimizer.skipped

    (found, steps, skipped), (expected, right, left_out) = run(True), run(False)
    assert_near(found, expected, 1e-6)
    assert skipped == left_out == len(options) // 2
    assert steps[1] == right[1]
    if options or not muon:  # of Muon's steps alone nobody counts those in a graph
        assert steps[0] == right[0]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_observed_now_and_then_the_device_counts_every_step(options: dict[str, Any]) -> None:
    def run(lr: Any, every: int, **options: Any) -> tuple[list[Tensor], float]:
        p = parameter((40,))
        optimizer = Optimizer([p], NAdam(lr=lr, betas=(0.8, 0.9)), engine="fused", **options)
        for step in range(1, 8):
            optimizer.observe(step % every == 0)
            train(optimizer, [p], first=step, last=step)
        return parameters_of(optimizer), float(optimizer.state[p]["step"])

    expected, steps = run(0.05, 100, **({"clip_norm": 0.5} if options else {}))
    for every in (2, 3):
        found, counted = run(torch.tensor(0.05, dtype=torch.float64), every, **options)
        assert counted == steps
        assert_near(found, expected, 1e-6)


def test_two_captures_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [parameter((4, 3)), parameter((40,), seed=1)]
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused")
    train(optimizer, parameters, last=1)
    graphs = [Graph(monkeypatch), Graph(monkeypatch)]
    for graph in graphs:
        with graph:
            optimizer.step()
    for graph in graphs:
        graph.replay()
    assert [float(state["step"]) for state in optimizer.state.values()] == [3.0, 3.0]
