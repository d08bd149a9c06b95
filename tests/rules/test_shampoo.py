"""Shampoo: inverse fourth roots on both sides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rules.singular_values import diagonal, near, with_singular_values
from stepwell import Optimizer
from stepwell.algebra.matrices import inverse_root
from stepwell.rules import Shampoo

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])


@pytest.mark.parametrize("limit", [8192, 3], ids=["whole", "one diagonal"])
@ENGINES
def test_two_steps(engine: str, limit: int) -> None:
    # On diagonal matrices both factors are Σg² on the diagonal, and (Σg² + ε)^(−1/4) twice makes it Adagrad.
    weights = diagonal([1.0, -2.0], 2, 4).requires_grad_()
    optimizer = Optimizer([weights], Shampoo(lr=0.1, eps=0.5, max_precond_dim=limit), engine=engine)
    theta, squares = [1.0, -2.0], [0.0, 0.0]
    for gradient in ([3.0, 4.0], [-1.0, 2.0]):
        squares = [s + g * g for s, g in zip(squares, gradient, strict=True)]
        theta = [p - 0.1 * g / math.sqrt(s + 0.5) for p, g, s in zip(theta, gradient, squares, strict=True)]
        weights.grad = diagonal(gradient, 2, 4)
        optimizer.step()
        near(weights.detach(), diagonal(theta, 2, 4))
        near(optimizer.state[weights]["row_factor"], diagonal(squares, 2, 2))
    assert optimizer.state[weights]["column_factor"].shape == ((4, 4) if limit > 3 else (4, 1))


@pytest.mark.parametrize("shape", [(5, 5), (5, 8), (8, 5)], ids=["square", "wide", "tall"])
@ENGINES
def test_the_first_step_is_orthogonal(engine: str, shape: tuple[int, int]) -> None:
    # (GGᵀ)^(−1/4)·G·(GᵀG)^(−1/4) = U·S^(−1/2)·S·S^(−1/2)·Vᵀ: what Muon goes for.
    gradient = with_singular_values(torch.linspace(0.5, 2.0, 5, dtype=torch.float64), *shape)
    weights = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    weights.grad = gradient.clone()
    Optimizer([weights], Shampoo(lr=1.0, eps=1e-14), engine=engine).step()
    near(weights.detach(), -with_singular_values(torch.ones(5, dtype=torch.float64), *shape), 1e-6)


def test_momentum_and_averaged_factors() -> None:
    # 1×1: factors are diagonals of one number. β₂ = 0.75: l = 0.25·4 = 1, step 2/√(1+ε); then l = 0.75 + 0.25·9 = 3.
    weights = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Shampoo(lr=0.1, momentum=0.5, beta2=0.75, eps=1.0))
    first, second = 2 / math.sqrt(2), -3 / math.sqrt(4)
    for gradient, expected in ((2.0, -0.1 * first), (-3.0, -0.1 * first - 0.1 * (0.5 * first + second))):
        weights.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        assert weights.item() == pytest.approx(expected)


def test_roots_may_be_worked_out_seldom() -> None:
    weights = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Shampoo(lr=1.0, eps=1.0, precondition_frequency=2))
    steps = []
    for gradient in (2.0, 2.0, 2.0):
        before = weights.item()
        weights.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        steps.append(before - weights.item())
    assert steps == pytest.approx([2 / math.sqrt(5), 2 / math.sqrt(5), 2 / math.sqrt(13)])


def test_inverse_roots() -> None:
    near(inverse_root(diagonal([16.0, 81.0], 2, 2), 4, 0.0), diagonal([1 / 2, 1 / 3], 2, 2))
    near(inverse_root(diagonal([15.0, 0.0], 2, 2), 2, 1.0), diagonal([1 / 4, 1.0], 2, 2))
    # A little below zero, as rounding leaves it, is zero; what is not finite is NaN and raises nothing.
    near(inverse_root(diagonal([3.0, -1e-9], 2, 2), 2, 1.0), diagonal([1 / 2, 1.0], 2, 2))
    stack = torch.stack([torch.eye(2), torch.full((2, 2), math.nan)])
    result = inverse_root(stack, 4, 0.0)
    near(result[0], torch.eye(2), 1e-6)
    assert bool(result[1].isnan().all())


@pytest.mark.parametrize(("slots", "values"), [(2, {}), (3, {"momentum": 0.9}), (4, {"precondition_frequency": 5})])
def test_what_is_off_has_no_slot(slots: int, values: Any) -> None:
    assert len(Shampoo(**values).slot_list()) == slots
