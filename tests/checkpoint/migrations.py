"""Trainings whose gradients come from the weights alone, for migrations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from checkpoint.small_training import language_model, seed


def go(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """A training whose gradients come from the weights alone."""
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.cos(3 * p.detach())
        optimizer.step()


def made(seeded: int = 0) -> nn.Module:
    seed(seeded)
    return language_model(dtype=torch.float64)


def in_two(model: nn.Module) -> list[dict[str, Any]]:
    """Groups as transformers makes them."""
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1]
    return [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


def assert_near(a: nn.Module, b: nn.Module, tolerance: float = 1e-11) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
