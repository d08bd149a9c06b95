"""Equality with `lion-pytorch`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stepwell
from conformance.cases import TOLERANCE, assert_near
from conformance.training import copies
from peers.training import STEPS, step, weights

pytestmark = pytest.mark.peers

SETTINGS = {
    "defaults": {},
    "betas": {"lr": 0.02, "betas": (0.5, 0.95)},
    "decay": {"lr": 0.02, "betas": (0.95, 0.98), "weight_decay": 0.5},
}


def lion_pytorch(parameters: list[torch.Tensor], **values: Any) -> torch.optim.Optimizer:
    from lion_pytorch import Lion

    return Lion(parameters, **values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
def test_twenty_steps(values: dict[str, Any], engine: str, dtype: torch.dtype) -> None:
    mine, expected = weights(dtype), weights(dtype)
    ours, theirs = stepwell.Lion(mine, engine=engine, **values), lion_pytorch(expected, **values)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), TOLERANCE[dtype])
    for p, q in zip(mine, expected, strict=True):
        assert_near([ours.state[p]["exp_avg"]], [theirs.state[q]["exp_avg"]], TOLERANCE[dtype])


def test_defaults_are_theirs() -> None:
    group, theirs = stepwell.Lion(weights()).param_groups[0], lion_pytorch(weights()).param_groups[0]
    for name in ("lr", "betas", "weight_decay"):
        assert group[name] == theirs[name]


def test_their_state_loads_and_training_goes_on() -> None:
    expected = weights()
    theirs = lion_pytorch(expected, **SETTINGS["decay"])
    for number in range(1, 8):
        step(theirs, expected, number)
    mine = [p.detach().clone().requires_grad_() for p in expected]
    ours = stepwell.Lion(mine)
    ours.load_state_dict(theirs.state_dict())
    for p, q in zip(mine, expected, strict=True):
        assert torch.equal(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"])
    for number in range(8, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
    assert_near(copies(mine), copies(expected), TOLERANCE[torch.float64])
