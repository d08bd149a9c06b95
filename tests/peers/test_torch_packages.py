"""Equality with `pytorch_optimizer` and `torch-optimi` in float64, rule by rule.

Where a package works out something else than the paper under the same name, it stands in the table of
`docs/optimizers.md`, not here.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

import stepwell
from conformance.cases import assert_near
from conformance.training import copies
from peers.training import STEPS, gradients, step, weights

pytestmark = pytest.mark.peers

POT, OPTIMI = "pytorch_optimizer", "optimi"
BETAS = {"betas": (0.8, 0.95)}
ADAN = {"lr": 0.02, "betas": (0.9, 0.8, 0.95)}

# Our rule and its arguments; the package, its name for the rule, and its arguments where they are called otherwise.
PAIRS: dict[str, tuple[str, dict[str, Any], str, str, dict[str, Any]]] = {
    "signum": ("SignSGD", {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.5}, POT, "SignSGD", {}),
    "tiger": ("Tiger", {"lr": 0.02, "beta": 0.8, "weight_decay": 0.5}, POT, "Tiger", {}),
    "tiger-independent": (
        "Tiger",
        {"lr": 0.02, "weight_decay": 0.05, "decay": "independent"},
        POT,
        "Tiger",
        {"fixed_decay": True},
    ),
    "ademamix": ("AdEMAMix", {"lr": 0.02, "betas": (0.8, 0.95, 0.99), "alpha": 3.0}, POT, "AdEMAMix", {}),
    "ademamix-warm-up": (
        "AdEMAMix",
        {"lr": 0.02, "betas": (0.8, 0.95, 0.999), "alpha": 5.0, "alpha_warmup": 12, "beta3_warmup": 12},
        POT,
        "AdEMAMix",
        {"t_alpha_beta3": 12},
    ),
    "ademamix-decay": (
        "AdEMAMix",
        {"lr": 0.02, "alpha": 8.0, "weight_decay": 0.5, "eps": 1e-3},
        POT,
        "AdEMAMix",
        {"weight_decouple": True},
    ),
    "adan-proximal": ("Adan", {**ADAN, "weight_decay": 0.5}, POT, "Adan", {}),
    "adan-decoupled": (
        "Adan",
        {**ADAN, "weight_decay": 0.5, "decay": "decoupled"},
        POT,
        "Adan",
        {"weight_decouple": True},
    ),
    "adan-optimi": ("Adan", {**ADAN, "eps": 1e-4, "weight_decay": 0.5}, OPTIMI, "Adan", {"triton": False}),
    "adabelief": ("AdaBelief", {"lr": 0.02, **BETAS, "eps": 1e-6, "weight_decay": 0.5}, POT, "AdaBelief", {}),
    "adabelief-coupled": (
        "AdaBelief",
        {"lr": 0.02, **BETAS, "weight_decay": 0.1, "decay": "coupled"},
        POT,
        "AdaBelief",
        {"weight_decouple": False},
    ),
    "adopt": (
        "ADOPT",
        {"lr": 0.02, **BETAS, "weight_decay": 0.1},
        POT,
        "ADOPT",
        {"clip_lambda": lambda step: (step - 1) ** 0.25},  # it counts the step that fills v
    ),
    "adopt-unclipped": ("ADOPT", {"lr": 0.02, **BETAS, "clip_exp": None}, POT, "ADOPT", {"clip_lambda": None}),
    "stable-adamw": (
        "StableAdamW",
        {"lr": 0.05, **BETAS, "weight_decay": 0.5, "eps": 1e-4},
        OPTIMI,
        "StableAdamW",
        {"triton": False},
    ),
}
# Arguments of ours alone.
OURS = ("decay", "alpha_warmup", "beta3_warmup", "clip_exp")


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("pair", PAIRS)
def test_twenty_steps(pair: str, engine: str) -> None:
    name, values, package, their_name, renamed = PAIRS[pair]
    theirs_too = {key: value for key, value in values.items() if key not in OURS}
    mine, expected = weights(), weights()
    ours = getattr(stepwell, name)(mine, engine=engine, **values)
    theirs = getattr(importlib.import_module(package), their_name)(expected, **{**theirs_too, **renamed})
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-11)
    assert all(p.dtype == torch.float64 for p in expected)


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars(nesterov: bool, engine: str) -> None:
    # Theirs adapts matrices only, and has no ε.
    from pytorch_optimizer import LARS

    values: dict[str, Any] = {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.3, "trust_coefficient": 0.05}
    values["nesterov"] = nesterov
    mine, expected = weights(), weights()
    ours = stepwell.LARS([p for p in mine if p.ndim > 1], eps=0.0, engine=engine, **values)
    theirs = LARS([p for p in expected if p.ndim > 1], **values)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-11)


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_mars(engine: str) -> None:
    # Theirs takes the gradient before the first for 0, ours for the first, and theirs divides ε by the correction, too.
    from pytorch_optimizer import MARS

    values: dict[str, Any] = {"lr": 0.02, **BETAS, "gamma": 0.3, "weight_decay": 0.5, "eps": 0.0}
    mine, expected = weights(), weights()
    ours, theirs = stepwell.MARS(mine, engine=engine, **values), MARS(expected, optimize_1d=True, **values)
    for p, gradient in zip(expected, gradients(1), strict=True):
        p.grad = gradient
    theirs.init_group(theirs.param_groups[0])
    for p in expected:
        theirs.state[p]["last_grad"].copy_(p.grad)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-7)  # theirs adds 1e-15 under the root
