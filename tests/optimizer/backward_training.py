"""Models whose gradients are known, for steps in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from conformance.cases import assert_same_bits
from conformance.training import slots_of
from stepwell import Optimizer, rules


class Weights(nn.Module):
    """Weights whose gradients are what is asked for."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.all = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])

    def loss(self, *gradients: float) -> Tensor:
        """Each number is the gradient of every element of one of the weights; the last comes first in the pass."""
        parts = [g * p.sum() for p, g in zip(self.all, gradients, strict=True)]
        return torch.stack(parts).sum()

    def values(self) -> list[float]:
        return [p[0].item() for p in self.all]


def descending(model: nn.Module, **options: Any) -> Optimizer:
    """Plain descent: the first step from 0 leaves −g·factor."""
    return Optimizer(model.parameters(), rules.SGD(lr=1.0), **options)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 6, generator=generator)
    return model(x).square().mean()


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def assert_same(model: nn.Module, optimizer: Optimizer, other: nn.Module, plain: Optimizer) -> None:
    assert_same_bits([p.detach() for p in model.parameters()], [p.detach() for p in other.parameters()])
    assert_same_bits(slots_of(optimizer), slots_of(plain))
