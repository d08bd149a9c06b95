"""Equality of rules of matrices with HeavyBall's, in float64 and uncompiled, where both work out the same.

HeavyBall keeps learning rates and memories in float32 tensors, so that its steps are ours up to a float32 rounding of
these. Its Newton–Schulz iteration has five polynomials of its own: the older one, with Jordan's, takes its place here.
Its Muon and ours mix Nesterov's gradient in at different shares, so that is off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from conformance.cases import assert_near
from conformance.training import copies, parameter
from peers.training import STEPS

pytestmark = pytest.mark.peers

MATRICES = ((4, 4), (4, 6), (7, 3), (3, 2, 2, 2))
FLOAT64 = {"storage_dtype": "float64"}

# Ours with its values, the shapes, and HeavyBall's with its own.
PAIRS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "muon": (
        "Muon",
        {"lr": 0.05, "momentum": 0.8, "nesterov": False, "weight_decay": 0.3},
        MATRICES,
        {"lr": 0.05, "betas": (0.8, 0.9), "nesterov": False, "weight_decay": 0.3},
    ),
    "scion": (
        "Scion",
        {"lr": 0.05, "momentum": 0.3, "scale": 2.0, "weight_decay": 0.3, "unconstrained": True, "conv1d": True},
        (*MATRICES, (3, 2, 5), (6,)),
        {"lr": 0.05, "betas": (0.7, 0.9), "scale": 2.0, "weight_decay": 0.3},
    ),
    "soap": (  # of matrices without null spaces, whose eigenvectors could be any
        "SOAP",
        {"lr": 0.05, "betas": (0.8, 0.9), "shampoo_beta": 0.7, "precondition_frequency": 1, "weight_decay": 0.0},
        ((4, 4), (5, 5)),
        {"lr": 0.05, "betas": (0.8, 0.9), "shampoo_beta": 0.7, "precondition_frequency": 1, "weight_decay": 0.0},
    ),
}


@pytest.fixture
def heavyball(monkeypatch: pytest.MonkeyPatch) -> Any:
    import heavyball

    monkeypatch.setattr(heavyball.utils, "compile_mode", None)
    older: Callable[..., Tensor] = heavyball.utils.legacy_zeropower_via_newtonschulz5
    monkeypatch.setattr(heavyball.utils, "zeropower_via_newtonschulz5", older)
    # Its Scion begins with weights of its own.
    monkeypatch.setattr(heavyball.utils, "scion_auto_init_param_", lambda *_, **__: None)
    return heavyball


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("pair", PAIRS)
def test_twenty_steps(pair: str, engine: str, heavyball: Any) -> None:
    name, values, shapes, their_values = PAIRS[pair]
    mine, expected = ([parameter(shape, torch.float64, seed) for seed, shape in enumerate(shapes)] for _ in range(2))
    ours = getattr(stepwell, name)(mine, engine=engine, **values)
    theirs = getattr(heavyball, name)(expected, **their_values, **FLOAT64)
    for number in range(1, STEPS + 1):
        for parameters, optimizer in ((mine, ours), (expected, theirs)):
            for index, p in enumerate(parameters):
                p.grad = parameter(p.shape, torch.float64, 1000 * number + index).detach()
            optimizer.step()
        assert_near(copies(mine), copies(expected), 1e-6)
