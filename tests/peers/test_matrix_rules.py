"""Equality of the matrix rules with `torch.optim`, pytorch_optimizer and kron_torch, in float64.

What is called Newton–Schulz there multiplies in bfloat16 wherever it runs; the tests let it work in float64.

Where they differ from the paper, the paper is followed, and the difference is set aside here: pytorch_optimizer's SOAP
shrinks the weights after the step (as the authors' code does) rather than before it, its Shampoo of a momentum above 0
mixes the last step into the next gradient, and its Scion takes no cube of the positions of a 1-d kernel.
"""

from __future__ import annotations

import functools
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

SHAPES = ((4, 4), (4, 6), (7, 3), (3, 2, 2, 2))
MATRICES = SHAPES[:3]


def weights(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    return [parameter(shape, torch.float64, seed) for seed, shape in enumerate(shapes)]


def step(optimizer: torch.optim.Optimizer, parameters: list[Tensor], number: int) -> None:
    for index, p in enumerate(parameters):
        p.grad = parameter(p.shape, torch.float64, 1000 * number + index).detach()
    optimizer.step()


@pytest.fixture
def _newton_schulz_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_optimizer.optimizer.utils import matrix

    iteration = matrix.zero_power_via_newton_schulz_5
    defaults = tuple(torch.float64 if value is torch.bfloat16 else value for value in iteration.__defaults__)
    assert torch.float64 in defaults
    monkeypatch.setattr(iteration, "__defaults__", defaults)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


def pytorch_optimizer(name: str, **values: Any) -> Callable[[list[Tensor]], Any]:
    def make(parameters: list[Tensor]) -> Any:
        import pytorch_optimizer

        kind = getattr(pytorch_optimizer, name)
        groups = [{"params": parameters, "use_muon": True, **values}] if "uon" in name else parameters
        return kind(groups) if "uon" in name else kind(groups, **values)

    return make


def torchs_muon(**values: Any) -> Callable[[list[Tensor]], Any]:
    return lambda parameters: torch.optim.Muon(parameters, **values)


DECAY = {"lr": 0.05, "weight_decay": 0.3}

# Ours with its values, the shapes, the other, and how near: some of the others add an ε more, or somewhere else.
PAIRS: dict[str, tuple[str, dict[str, Any], Any, Callable[[list[Tensor]], Any], float]] = {
    "torch-muon": ("Muon", {**DECAY, "momentum": 0.8}, MATRICES, torchs_muon(**DECAY, momentum=0.8), 1e-11),
    "torch-muon-match": (
        "Muon",
        {**DECAY, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        MATRICES,
        torchs_muon(**DECAY, nesterov=False, adjust_lr_fn="match_rms_adamw"),
        1e-11,
    ),
    "muon": (
        "Muon",
        {**DECAY, "momentum": 0.8},
        SHAPES,
        pytorch_optimizer("Muon", **DECAY, momentum=0.8),
        1e-6,
    ),
    "muon-match": (
        "Muon",
        {**DECAY, "adjust_lr_fn": "match_rms_adamw"},
        SHAPES,
        pytorch_optimizer("Muon", **DECAY, use_adjusted_lr=True),
        1e-6,
    ),
    "normuon": (
        "NorMuon",
        {**DECAY, "beta2": 0.9},
        SHAPES,
        pytorch_optimizer("NorMuon", **DECAY, beta2=0.9, update_scale="match_rms"),
        1e-6,
    ),
    "normuon-original": (
        "NorMuon",
        {**DECAY, "beta2": 0.9, "adjust_lr_fn": "original"},
        SHAPES,
        pytorch_optimizer("NorMuon", **DECAY, beta2=0.9, update_scale="preserve_norm"),
        1e-6,
    ),
    "adamuon": (
        "AdaMuon",
        {**DECAY, "momentum": 0.9, "beta2": 0.95, "sign_stabilized": False},
        SHAPES,
        pytorch_optimizer("AdaMuon", **DECAY, betas=(0.9, 0.95), use_adjusted_lr=True),
        1e-6,
    ),
    "scion": (
        "Scion",
        {"lr": 0.05, "momentum": 0.3, "scale": 2.0},
        SHAPES,
        pytorch_optimizer("SCION", lr=0.05, momentum=0.3, scale=2.0, constraint=True),
        1e-6,
    ),
    "scion-unconstrained": (
        "Scion",
        {"lr": 0.05, "momentum": 0.3, "unconstrained": True},
        (*SHAPES, (5,)),
        pytorch_optimizer("SCION", lr=0.05, momentum=0.3),
        1e-6,
    ),
    "scion-sign": (
        "Scion",
        {"lr": 0.05, "momentum": 0.3, "norm": "sign"},
        MATRICES,
        pytorch_optimizer("SCION", lr=0.05, momentum=0.3, norm_type=4, constraint=True),
        1e-11,
    ),
    "soap": (
        "SOAP",
        {"lr": 0.05, "betas": (0.8, 0.9), "precondition_frequency": 3, "weight_decay": 0.0},
        ((4, 4), (5, 5)),
        pytorch_optimizer("SOAP", lr=0.05, betas=(0.8, 0.9), precondition_frequency=3, weight_decay=0.0),
        1e-5,
    ),
    "soap-unmerged": (
        "SOAP",
        {"lr": 0.05, "betas": (0.8, 0.9), "precondition_frequency": 2, "weight_decay": 0.0, "merge_dims": False},
        ((4, 4), (3, 2, 2, 2)),
        pytorch_optimizer("SOAP", lr=0.05, betas=(0.8, 0.9), precondition_frequency=2, weight_decay=0.0),
        1e-5,
    ),
    "soap-limit": (
        "SOAP",
        {"lr": 0.05, "shampoo_beta": 0.7, "precondition_frequency": 1, "weight_decay": 0.0, "max_precond_dim": 4},
        MATRICES,
        pytorch_optimizer(
            "SOAP", lr=0.05, shampoo_beta=0.7, precondition_frequency=1, weight_decay=0.0, max_precondition_dim=4
        ),
        1e-5,
    ),
    "shampoo": (
        "Shampoo",
        {"lr": 0.05, "eps": 1e-2, "weight_decay": 0.1},
        MATRICES,
        pytorch_optimizer("Shampoo", lr=0.05, matrix_eps=1e-2, weight_decay=0.1),
        1e-9,
    ),
}


@pytest.mark.usefixtures("_newton_schulz_in_float64")
@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("pair", PAIRS)
def test_twenty_steps(pair: str, engine: str) -> None:
    name, values, shapes, theirs, tolerance = PAIRS[pair]
    mine, expected = weights(shapes), weights(shapes)
    ours, other = getattr(stepwell, name)(mine, engine=engine, **values), theirs(expected)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(other, expected, number)
        assert_near(copies(mine), copies(expected), tolerance)


@pytest.mark.usefixtures("_newton_schulz_in_float64")
def test_torchs_muon_loads_and_back() -> None:
    expected = weights(MATRICES)
    theirs = torch.optim.Muon(expected, lr=0.05)
    for number in (1, 2):
        step(theirs, expected, number)
    mine = [p.detach().clone().requires_grad_() for p in expected]
    ours = stepwell.Muon(mine)
    ours.load_state_dict(theirs.state_dict())
    for number in (3, 4):
        step(ours, mine, number)
        step(theirs, expected, number)
    assert_near(copies(mine), copies(expected), 1e-11)
    back = [p.detach().clone().requires_grad_() for p in mine]
    again = torch.optim.Muon(back)
    again.load_state_dict(ours.state_dict())
    step(again, back, 5)
    step(theirs, expected, 5)
    assert_near(copies(back), copies(expected), 1e-11)


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("limit", [8192, 5])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kron(engine: str, limit: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # The momentum in the update of their factors would be damped in place, and so be another step.
    kron = pytest.importorskip("kron_torch.kron", reason="kron_torch needs Triton, which is not for every machine")

    from stepwell.algebra.matrices import normal_like

    values = {"lr": 0.05, "b1": 0.8, "weight_decay": 0.1, "max_size_triangular": limit}
    values["momentum_into_precond_update"] = False
    mine, expected = weights(MATRICES), weights(MATRICES)
    ours = stepwell.Kron(mine, engine=engine, preconditioner_update_probability=0.5, **values)
    theirs = kron.Kron(expected, preconditioner_update_probability=0.5, precond_dtype=torch.float64, **values)
    theirs.rng.random = lambda: 1.0  # no balancing by lot
    with torch.compiler.set_stance("force_eager"):
        for number in range(1, STEPS + 1):
            monkeypatch.setattr(kron.torch, "randn_like", functools.partial(normal_like, seed=number))
            monkeypatch.setattr(kron, "_solve_triangular_right", _solve_in_float64)
            step(ours, mine, number)
            step(theirs, expected, number)
            assert_near(copies(mine), copies(expected), 1e-9)


def _solve_in_float64(x: Tensor, a: Tensor) -> Tensor:
    """What kron_torch and pytorch_optimizer do in float32."""
    return torch.linalg.solve_triangular(a, x.reshape(-1, x.shape[-1]), upper=True, left=False).reshape(x.shape)


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("of_momentum", [True, False])
@pytest.mark.parametrize("limit", [8192, 5])
def test_kron_of_pytorch_optimizer(limit: int, of_momentum: bool, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Theirs has no damping noise, so that ours has none here.
    import pytorch_optimizer
    from pytorch_optimizer.optimizer import psgd

    from stepwell.algebra.matrices import normal_like
    from stepwell.rules import kron

    monkeypatch.setattr(kron, "EPS", 0.0)
    monkeypatch.setattr(psgd, "solve_triangular_right", _solve_in_float64)
    mine, expected = weights(MATRICES), weights(MATRICES)
    shared = {"lr": 0.05, "weight_decay": 0.1, "max_size_triangular": limit}
    ours = stepwell.Kron(
        mine,
        engine=engine,
        b1=0.8,
        momentum_into_precond_update=of_momentum,
        preconditioner_update_probability=0.5,
        **shared,
    )
    theirs = pytorch_optimizer.Kron(
        expected,
        momentum=0.8,
        momentum_into_precondition_update=of_momentum,
        pre_conditioner_update_probability=0.5,
        precondition_dtype=torch.float64,
        balance_prob=0.0,
        **shared,
    )
    for number in range(1, STEPS + 1):
        monkeypatch.setattr(torch, "randn_like", lambda x, seed=number, **_: normal_like(x, seed=seed))
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-11)
