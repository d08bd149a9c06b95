"""Equality with the authors' `prodigyopt` and `dadaptation`, in float64, over steps in which the estimate grows.

prodigyopt multiplies ε by the next estimate where the paper has this step's; ε is too small here to tell.
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
from peers.training import SHAPES, weights

pytestmark = pytest.mark.peers

STEPS = 40


def prodigyopt(parameters: list[Tensor], **values: Any) -> Any:
    from prodigyopt import Prodigy

    return Prodigy(parameters, **values)


def dadaptation(parameters: list[Tensor], **values: Any) -> Any:
    from dadaptation import DAdaptAdam

    return DAdaptAdam(parameters, **values)


PAIRS: dict[str, tuple[str, dict[str, Any], Callable[..., Any], dict[str, Any]]] = {
    "prodigy": ("Prodigy", {"eps": 1e-30}, prodigyopt, {"eps": 1e-30}),
    "prodigy-decay": (
        "Prodigy",
        {"eps": 1e-30, "betas": (0.8, 0.95), "weight_decay": 0.1, "use_bias_correction": True, "d_coef": 2.0},
        prodigyopt,
        {"eps": 1e-30, "betas": (0.8, 0.95), "weight_decay": 0.1, "use_bias_correction": True, "d_coef": 2.0},
    ),
    "prodigy-coupled": (
        "Prodigy",
        {"eps": 1e-30, "weight_decay": 0.1, "decay": "coupled", "safeguard_warmup": True, "beta3": 0.9, "lr": 0.5},
        prodigyopt,
        {"eps": 1e-30, "weight_decay": 0.1, "decouple": False, "safeguard_warmup": True, "beta3": 0.9, "lr": 0.5},
    ),
    "prodigy-limited": (
        "Prodigy",
        {"eps": 1e-30, "growth_rate": 1.3, "d0": 1e-3},
        prodigyopt,
        {"eps": 1e-30, "growth_rate": 1.3, "d0": 1e-3},
    ),
    "d-adaptation": ("DAdaptAdam", {}, dadaptation, {}),
    "d-adaptation-decay": (
        "DAdaptAdam",
        {"betas": (0.8, 0.95), "weight_decay": 0.1, "use_bias_correction": True, "decay": "inside"},
        dadaptation,
        {"betas": (0.8, 0.95), "weight_decay": 0.1, "use_bias_correction": True, "decouple": True},
    ),
    "d-adaptation-coupled": (
        "DAdaptAdam",
        {"weight_decay": 0.1, "growth_rate": 1.3, "lr": 0.5},
        dadaptation,
        {"weight_decay": 0.1, "growth_rate": 1.3, "lr": 0.5},
    ),
}


def step(optimizer: torch.optim.Optimizer, parameters: list[Tensor], number: int) -> None:
    """A step towards targets, with a little noise: the estimate grows."""
    for index, p in enumerate(parameters):
        noise = parameter(SHAPES[index], torch.float64, 1000 * number + index).detach()
        target = parameter(SHAPES[index], torch.float64, 77 + index).detach()
        p.grad = (p.detach() - 3 * target) + 0.1 * noise
    optimizer.step()


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("pair", PAIRS)
def test_forty_steps(pair: str, engine: str) -> None:
    name, values, theirs, their_values = PAIRS[pair]
    mine, expected = weights(), weights()
    ours, other = getattr(stepwell, name)(mine, engine=engine, **values), theirs(expected, **their_values)
    estimates = []
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(other, expected, number)
        # Steps are quotients of averages, and where those pass through 0 their roundings are seen.
        assert_near(copies(mine), copies(expected), 1e-7)
        estimates.append(ours.state[mine[0]]["next_d"])
        assert estimates[-1] == pytest.approx(other.param_groups[0]["d"], rel=1e-8)
    assert estimates[-1] > 2 * estimates[0]


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("pair", ["prodigy", "d-adaptation"])
def test_a_group_that_is_added_later_takes_over_the_estimate(pair: str, engine: str) -> None:
    name, values, theirs, their_values = PAIRS[pair]
    mine, expected = weights(), weights()
    ours = getattr(stepwell, name)(mine[:3], engine=engine, **values)
    other = theirs(expected[:3], **their_values)
    for number in range(1, STEPS + 1):
        if number == STEPS // 2:
            ours.add_param_group({"params": mine[3:]})
            other.add_param_group({"params": expected[3:]})
        step(ours, mine, number)
        step(other, expected, number)
        assert_near(copies(mine), copies(expected), 1e-7)
        assert ours.state[mine[0]]["next_d"] == pytest.approx(other.param_groups[0]["d"], rel=1e-8)
