"""Small Schedule-Free trainings, for the tests of averaged weights and of states that are loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule
from stepwell.rules import ScheduleFreeAdamW, ScheduleFreeSGD

RULES: dict[str, Rule] = {
    "ScheduleFreeSGD": ScheduleFreeSGD(lr=0.2, warmup_steps=2),
    "ScheduleFreeAdamW": ScheduleFreeAdamW(lr=0.1, betas=(0.8, 0.9), weight_decay=0.1),
}
NAMES = ("a", "b", "c", "d")

each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
each_engine = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (), (0,), (300,))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def made(rule: Rule, parameters: list[Tensor] | None = None, **options: Any) -> Optimizer:
    pairs = list(zip(NAMES, parameters or weights(), strict=True))
    return Optimizer(pairs, rule, **options)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def now(optimizer: Optimizer) -> list[Tensor]:
    return [p.detach().clone() for p in parameters_of(optimizer)]


def go(optimizer: Optimizer, first: int, last: int) -> Optimizer:
    """Steps `first` to `last` of one training: the gradients come from the weights, so that wrong ones show."""
    for step in range(first, last + 1):
        for p in parameters_of(optimizer):
            p.grad = torch.cos(3 * p.detach().float() + step).to(p.dtype)
        optimizer.step()
    return optimizer


def assert_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach().double(), e.detach().double(), rtol=tolerance, atol=tolerance)


def averages(optimizer: Optimizer) -> list[Tensor]:
    """x = (y − (1 − β)·z) / β, from weights to train on."""
    found = []
    for group in optimizer.param_groups:
        beta = group["momentum"] if "momentum" in group else group["betas"][0]
        for p in group["params"]:
            y, z = p.detach().double(), optimizer.state[p]["z"].double()
            found.append((y - (1 - beta) * z) / beta)
    return found
