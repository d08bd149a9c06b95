"""Equality with the authors' `schedulefree`: weights, averaged weights and state, over warm-up and past it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stepwell
from conformance.cases import TOLERANCE, assert_near, assert_same_bits
from conformance.training import copies
from peers.training import STEPS, step, weights

pytestmark = pytest.mark.peers

SETTINGS = {
    "adamw": ("AdamW", {"lr": 0.02}),
    "adamw-warm-up": ("AdamW", {"lr": 0.02, "betas": (0.95, 0.9), "warmup_steps": 7}),
    "adamw-decay": ("AdamW", {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}),
    "adamw-r": ("AdamW", {"lr": 0.02, "warmup_steps": 7, "r": 1.0, "weight_lr_power": 0.0, "weight_decay": 0.3}),
    "radam": ("RAdam", {"lr": 0.02}),
    "radam-not-silent": ("RAdam", {"lr": 0.02, "betas": (0.8, 0.99), "silent_sgd_phase": False, "weight_decay": 0.3}),
    "radam-r": ("RAdam", {"lr": 0.02, "betas": (0.8, 0.9), "r": 1.0, "weight_lr_power": 0.0, "eps": 1e-3}),
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-warm-up": ("SGD", {"lr": 0.1, "momentum": 0.8, "warmup_steps": 7}),
    "sgd-decay": ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3, "warmup_steps": STEPS + 5}),
    "sgd-r": ("SGD", {"lr": 0.1, "r": 2.0, "weight_lr_power": 1.0, "warmup_steps": 3}),
}


def ours(kind: str, parameters: list[torch.Tensor], **values: Any) -> stepwell.Optimizer:
    return getattr(stepwell, f"ScheduleFree{kind}")(parameters, **values)


def theirs(kind: str, parameters: list[torch.Tensor], **values: Any) -> Any:
    import schedulefree

    return getattr(schedulefree, f"{kind}ScheduleFree")(parameters, foreach=False, **values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize(("kind", "values"), SETTINGS.values(), ids=SETTINGS)
def test_twenty_steps(kind: str, values: dict[str, Any], engine: str, dtype: torch.dtype) -> None:
    mine, expected = weights(dtype), weights(dtype)
    us, them = ours(kind, mine, engine=engine, **values), theirs(kind, expected, **values)
    # Weights of size 1 in float32 take some roundings a step; x = y + (1 − 1/β)(z − y) magnifies those of y and z.
    tolerance = {torch.float64: 1e-12, torch.float32: 5e-6}[dtype]
    for number in range(1, STEPS + 1):
        if number == STEPS // 2:  # the average goes on with the largest rate
            us.param_groups[0]["lr"] /= 2
            them.param_groups[0]["lr"] /= 2
        them.train()
        step(us, mine, number)
        step(them, expected, number)
        assert_near(copies(mine), copies(expected), tolerance)

        kept = copies(expected)
        them.eval()
        with us.averaged():
            assert_near(copies(mine), copies(expected), tolerance)
        for p, weight in zip(expected, kept, strict=True):  # their way back is rounded: it is not what is compared
            p.data.copy_(weight)
        them.param_groups[0]["train_mode"] = True
    slots = ("z",) if kind == "SGD" else ("z", "exp_avg_sq")
    for p, q in zip(mine, expected, strict=True):
        assert_near([us.state[p][slot] for slot in slots], [them.state[q][slot] for slot in slots], tolerance)
        assert us.state[p]["step"] == them.param_groups[0]["k"] == STEPS
        assert us.state[p]["lr_max"] == pytest.approx(them.param_groups[0]["lr_max"], rel=1e-12)
        assert us.state[p]["weight_sum"] == pytest.approx(them.param_groups[0]["weight_sum"], rel=1e-12)


@pytest.mark.parametrize(("kind", "values"), SETTINGS.values(), ids=SETTINGS)
def test_eval_and_train_in_place(kind: str, values: dict[str, Any]) -> None:
    mine, expected = weights(), weights()
    us, them = ours(kind, mine, **values), theirs(kind, expected, **values)
    for number in range(1, 6):
        for optimizer, parameters in ((us, mine), (them, expected)):
            optimizer.train()
            step(optimizer, parameters, number)
            optimizer.eval()
            optimizer.eval()
        assert_near(copies(mine), copies(expected), TOLERANCE[torch.float64])
    us.train()
    them.train()
    assert_near(copies(mine), copies(expected), TOLERANCE[torch.float64])


@pytest.mark.parametrize("kind", ["AdamW", "RAdam", "SGD"])
def test_without_a_step_the_average_is_the_weights(kind: str) -> None:
    mine, expected = weights(), weights()
    us, them = ours(kind, mine), theirs(kind, expected)
    them.train()
    them.eval()
    with us.averaged():
        assert_same_bits(copies(mine), copies(expected))


@pytest.mark.parametrize("kind", ["AdamW", "RAdam", "SGD"])
def test_defaults_are_theirs(kind: str) -> None:
    group, torchs = ours(kind, weights()).param_groups[0], theirs(kind, weights()).param_groups[0]
    shared = set(group) & set(torchs) - {"params"}
    assert shared >= {"lr", "weight_decay", "r", "weight_lr_power"}
    for name in shared:
        assert group[name] == torchs[name]
