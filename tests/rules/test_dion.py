"""Dion: updates of low rank, and a momentum that keeps what they leave out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rules.singular_values import near
from stepwell import Optimizer
from stepwell.algebra.matrices import normal_like
from stepwell.rules import Dion

Array = NDArray[np.float64]
ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@ENGINES
def test_two_steps_of_one_row(engine: str) -> None:
    # P is ±1 whatever Q was, so that P·Qᵀ is the momentum over its length, and √(rows/cols) = √½. M keeps the share μ.
    weights = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Dion(lr=0.1, mu=0.5, weight_decay=0.0, eps=0.0), engine=engine)
    # M = (3, 4), of length 5; then M = (1.5, 2) + (1.5, −6) = (3, −4), of length 5 again.
    first = -0.1 * math.sqrt(0.5) * torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    second = first - 0.1 * math.sqrt(0.5) * torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    for gradient, expected, momentum in (
        ([[3.0, 4.0]], first, [[1.5, 2.0]]),
        ([[1.5, -6.0]], second, [[1.5, -2.0]]),
    ):
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        near(weights.detach(), expected)
        near(optimizer.state[weights]["momentum_buffer"], torch.tensor(momentum, dtype=torch.float64))


def gram_schmidt(columns: Array) -> Array:
    """Columns of length 1, each orthogonal to those before it, which span what the given ones span."""
    found = np.zeros_like(columns)
    for index, column in enumerate(columns.T):
        for _ in range(2):  # once more, for what rounding has left
            column = column - found @ (found.T @ column)
        found[:, index] = column / np.linalg.norm(column)
    return found


class Algorithm1:
    """Dion in NumPy, from the paper (arXiv:2504.05295, Alg. 1), where the weights are called X."""

    def __init__(self, x: Array, q: Array, *, lr: float, mu: float, weight_decay: float) -> None:
        self.x, self.q, self.m = x, q, np.zeros_like(x)
        self.lr, self.mu, self.weight_decay = lr, mu, weight_decay

    def step(self, gradient: Array) -> None:
        rows, cols = self.x.shape
        b = self.m + gradient
        p = gram_schmidt(b @ self.q)
        r = b.T @ p
        self.m = b - (1 - self.mu) * p @ r.T
        self.q = r / np.linalg.norm(r, axis=0)
        self.x = (1 - self.lr * self.weight_decay) * self.x - self.lr * math.sqrt(rows / cols) * p @ self.q.T


@pytest.mark.parametrize("fraction", [0.3, 1.0])
@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)], ids=["square", "wide", "tall"])
@ENGINES
def test_twenty_steps(engine: str, shape: tuple[int, int], fraction: float) -> None:
    values = {"lr": 0.05, "mu": 0.8, "weight_decay": 0.3}
    weights = random(*shape, seed=1).requires_grad_()
    optimizer = Optimizer([weights], Dion(rank_fraction=fraction, eps=0.0, **values), engine=engine)
    start = normal_like(torch.zeros(shape[1], math.ceil(fraction * min(shape)), dtype=torch.float64), seed=0)
    expected = Algorithm1(weights.detach().numpy().copy(), start.numpy(), **values)
    for number in range(20):
        weights.grad = random(*shape, seed=100 + number)
        expected.step(weights.grad.numpy())
        optimizer.step()
        near(weights.detach(), torch.from_numpy(expected.x), 1e-8)
        near(optimizer.state[weights]["momentum_buffer"], torch.from_numpy(expected.m), 1e-8)


@pytest.mark.parametrize(("fraction", "rank"), [(0.25, 2), (0.3, 3), (1.0, 8)])
@ENGINES
def test_an_update_has_the_rank_that_was_asked_for(engine: str, fraction: float, rank: int) -> None:
    weights = torch.zeros(8, 12, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Dion(lr=1.0, weight_decay=0.0, rank_fraction=fraction), engine=engine)
    weights.grad = random(8, 12)
    optimizer.step()
    values = torch.linalg.svdvals(weights.detach())
    assert int((values > 1e-6).sum()) == rank
    assert optimizer.state[weights]["right_factor"].shape == (12, rank)


@ENGINES
def test_power_iteration_finds_the_largest_singular_vectors(engine: str) -> None:
    # The same gradient again and again: the update of rank 2 ends at the first two pairs of singular vectors.
    left, _ = torch.linalg.qr(random(6, 6))
    right, _ = torch.linalg.qr(random(9, 9, seed=1))
    gradient = left @ torch.diag(torch.tensor([9.0, 3.0, 0.5, 0.2, 0.1, 0.05], dtype=torch.float64)) @ right[:, :6].T
    weights = torch.zeros(6, 9, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Dion(lr=1.0, mu=0.0, weight_decay=0.0, rank_fraction=0.3), engine=engine)
    for _ in range(40):
        optimizer.state.get(weights, {}).get("momentum_buffer", torch.zeros(1)).zero_()
        weights.data.zero_()
        weights.grad = gradient.clone()
        optimizer.step()
    near(weights.detach(), -math.sqrt(6 / 9) * left[:, :2] @ right[:, :2].T, 1e-8)


@ENGINES
def test_what_an_update_leaves_out_stays_in_the_momentum(engine: str) -> None:
    # M keeps all of the gradient outside the span of P, and the share μ of what is in it.
    weights = torch.zeros(6, 9, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Dion(lr=1.0, mu=0.75, weight_decay=0.0, rank_fraction=0.3), engine=engine)
    gradient = random(6, 9)
    weights.grad = gradient.clone()
    optimizer.step()
    basis, _, _ = torch.linalg.svd(weights.detach(), full_matrices=False)
    inside = basis[:, :2] @ basis[:, :2].T @ gradient
    near(optimizer.state[weights]["momentum_buffer"], gradient - 0.25 * inside, 1e-7)


@ENGINES
def test_a_gradient_of_zeros_is_no_step_and_does_not_stick(engine: str) -> None:
    weights = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Dion(lr=1.0), engine=engine)
    weights.grad = torch.zeros(4, 5, dtype=torch.float64)
    optimizer.step()
    assert not weights.detach().any()
    weights.grad = random(4, 5)
    optimizer.step()
    assert bool((torch.linalg.svdvals(weights.detach()) > 0.1).all())
