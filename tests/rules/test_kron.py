"""Kron: a preconditioner that learns to whiten the gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rules.singular_values import near
from stepwell import Optimizer
from stepwell.algebra.matrices import normal_like
from stepwell.rules import Kron
from stepwell.rules.kron import balanced, update_probability

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@ENGINES
def test_two_steps_of_one_number(engine: str) -> None:
    # Two factors q and r of one number each, which start at 1: a = q·g·r, b = v/(q·r), and
    # q ← q − μ·(a² − b²)/(a² + b²)·q, so for r; the step is q²r²·m̂, at most 1.1 long. v is the seed's normal number.
    mu, beta, lr = 0.1, 0.5, 0.01
    weights = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Kron(lr=lr, b1=beta, precond_lr=mu), engine=engine)
    q = r = 1.0
    theta = m = 0.0
    for step, g in ((1, 0.5), (2, -0.25)):
        m = beta * m + (1 - beta) * g
        unbiased = m / (1 - beta**step)
        v = float(normal_like(torch.zeros(1, 1, dtype=torch.float64), step))
        damped = unbiased + math.sqrt(2.0**-23) * abs(unbiased) * v
        a, b = q * damped * r, v / (q * r)
        change = mu * (a * a - b * b) / (a * a + b * b)
        q, r = q - change * q, r - change * r
        theta -= lr * max(-1.1, min(1.1, q * q * r * r * unbiased))
        weights.grad = torch.full((1, 1), g, dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[weights]
        assert [float(state["row_factor"]), float(state["column_factor"])] == pytest.approx([q, r], rel=1e-9)
        assert weights.item() == pytest.approx(theta, rel=1e-9)


@ENGINES
def test_it_learns_to_whiten_the_gradients(engine: str) -> None:
    # Rows of gradients are up to 30 times as long as others; preconditioned, they are alike.
    weights = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    rule = Kron(lr=1.0, b1=0.0, momentum_into_precond_update=False, preconditioner_update_probability=1.0)
    optimizer = Optimizer([weights], rule, engine=engine)
    scale = torch.tensor([3.0, 1.0, 0.3, 0.1], dtype=torch.float64)[:, None]
    steps = []
    for seed in range(600):
        before = weights.detach().clone()
        weights.grad = scale * random(4, 6, seed=seed)
        optimizer.step()
        steps.append(weights.detach() - before)
    sizes = torch.stack(steps[-150:]).square().mean((0, 2)).sqrt()
    assert float(sizes.max() / sizes.min()) < 1.6
    assert 0.5 < float(sizes.mean()) < 1.2


@ENGINES
def test_factors_stay_triangular_or_diagonal(engine: str) -> None:
    weights = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Kron(max_size_triangular=4), engine=engine)
    for seed in range(5):
        weights.grad = random(3, 5, seed=seed)
        optimizer.step()
    state = optimizer.state[weights]
    near(state["row_factor"], state["row_factor"].triu())
    assert state["column_factor"].shape == (5, 1)


@ENGINES
def test_no_step_is_longer_than_its_limit(engine: str) -> None:
    weights = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    weights.grad = 1000 * random(3, 5)
    Optimizer([weights], Kron(lr=1.0), engine=engine).step()
    assert float(weights.detach().square().mean().sqrt()) == pytest.approx(1.1)


def test_the_factors_are_updated_less_and_less_often() -> None:
    assert [update_probability(step, None) for step in (0, 500, 10_000)] == [1.0, 1.0, 0.03]
    assert update_probability(1500, None) == pytest.approx(math.exp(-1))
    assert update_probability(0, 0.25) == 0.25
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer, changed = Optimizer([weights], Kron(preconditioner_update_probability=0.3)), []
    factor = None
    for seed in range(9):
        weights.grad = random(2, 2, seed=seed)
        optimizer.step()
        now = optimizer.state[weights]["row_factor"].clone()
        changed.append(factor is None or not torch.equal(now, factor))
        factor = now
    # 1/0.3 = 3.3: every fourth step. The first makes the identity.
    assert changed == [True, False, False, True, False, False, False, True, False]


def test_balanced_factors_have_one_size_and_the_same_product() -> None:
    left, right = 8 * torch.eye(2, dtype=torch.float64), 0.5 * torch.ones(3, 1, dtype=torch.float64)
    near(balanced(left, right)[0], 2 * torch.eye(2, dtype=torch.float64))
    near(balanced(left, right)[1], torch.full((3, 1), 2.0, dtype=torch.float64))
