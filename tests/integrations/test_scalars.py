"""An optimizer's numbers as a logger takes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import stepwell
from stepwell.integrations.scalars import scalars


def observed() -> stepwell.Optimizer:
    """Two groups after an observed step, with gradients (1, 0) on (3, 4) and 2 on 1."""
    first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(1))
    groups = [{"params": [first], "name": "hidden", "lr": 0.5}, {"params": [second]}]
    optimizer = stepwell.SGD(groups, lr=0.25, clip_norm=100.0)
    optimizer.observe()
    first.grad, second.grad = torch.tensor([1.0, 0.0]), torch.tensor([2.0])
    optimizer.step()
    return optimizer


def test_rates_norm_and_telemetry() -> None:
    found = scalars(observed())
    root = math.sqrt(2)
    assert found == pytest.approx(
        {
            "lr/hidden": 0.5,
            "lr/1": 0.25,
            "gradient_norm": math.sqrt(1 + 0 + 4),
            # Root mean squares of (0.5, 0), of (3, 4) and of (1, 0): √(0.25/2), √(25/2), √(1/2).
            "update_rms/hidden": 0.5 / root,
            "weight_rms/hidden": 5 / root,
            "gradient_rms/hidden": 1 / root,
            "update_to_weight/hidden": 0.1,
            "update_rms/1": 0.5,
            "weight_rms/1": 1.0,
            "gradient_rms/1": 2.0,
            "update_to_weight/1": 0.5,
        }
    )
    assert {type(value) for value in found.values()} == {float}


def test_an_optimizer_that_is_not_observed() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = stepwell.SGD([parameter], lr=0.1, on_nonfinite="skip")
    assert scalars(optimizer) == {"lr/0": 0.1}
    parameter.grad = torch.full((2,), math.nan)
    optimizer.step()
    assert scalars(optimizer)["skipped_steps"] == 1.0


def test_before_the_first_step() -> None:
    optimizer = stepwell.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.observe()
    assert optimizer.observed
    assert scalars(optimizer) == {"lr/0": 0.1}


def test_an_optimizer_of_torch_and_one_inside_another() -> None:
    class Wrapper:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)

    assert scalars(Wrapper()) == scalars(Wrapper.optimizer) == {"lr/0": 0.1}
