"""Scion: each step goes to the end of a ball, and constrained weights stay in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rules.singular_values import diagonal, near, newton_schulz
from stepwell import Optimizer
from stepwell.algebra.matrices import orthogonalized
from stepwell.rules import Scion

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])


@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("norm", ["auto", "spectral", "sign"])
@ENGINES
def test_two_steps(engine: str, norm: Any, unconstrained: bool) -> None:
    # Diagonal 2×8: √(2/8) = 0.5 stands before the orthogonal factor, 1/8 before the sign. ρ = 3, η = 0.1, α = 0.25.
    theta, buffer = [1.0, -2.0], [0.0, 0.0]
    weights = diagonal(theta, 2, 8).requires_grad_()
    rule = Scion(lr=0.1, momentum=0.25, scale=3.0, norm=norm, unconstrained=unconstrained)
    optimizer = Optimizer([weights], rule, engine=engine)
    for gradient in ([3.0, 4.0], [-20.0, 2.0]):
        buffer = [0.75 * b + 0.25 * g for b, g in zip(buffer, gradient, strict=True)]
        of_signs = [math.copysign(1 / 8, b) for b in buffer]
        ends = of_signs if norm == "sign" else [0.5 * o for o in newton_schulz(buffer)]
        kept = 1.0 if unconstrained else 0.9
        theta = [kept * p - 0.1 * 3.0 * e for p, e in zip(theta, ends, strict=True)]
        weights.grad = diagonal(gradient, 2, 8)
        optimizer.step()
        near(weights.detach(), diagonal(theta, 2, 8))
        near(optimizer.state[weights]["momentum_buffer"], diagonal(buffer, 2, 8))


@pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])
def test_two_steps_of_a_vector(engine: str) -> None:
    # α = 1: d = g. RMS of (3, 4) is √12.5, of (1, −1) it is 1.
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Scion(lr=0.1, momentum=1.0, scale=2.0), engine=engine)
    first = [0.9 * 1 - 0.2 * 3 / math.sqrt(12.5), -0.2 * 4 / math.sqrt(12.5)]
    second = [0.9 * first[0] - 0.2, 0.9 * first[1] + 0.2]
    for gradient, expected in (([3.0, 4.0], first), ([1.0, -1.0], second)):
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        near(weights.detach(), torch.tensor(expected, dtype=torch.float64), 1e-7)


@pytest.mark.parametrize(("shape", "flags"), [((6, 2, 2, 3), {}), ((6, 2, 3), {"conv1d": True})], ids=["2-d", "1-d"])
@ENGINES
def test_kernels_are_scaled_by_channels_and_positions(engine: str, shape: tuple[int, ...], flags: Any) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    weights.grad = gradient.clone()
    Optimizer([weights], Scion(lr=0.5, momentum=1.0, **flags), engine=engine).step()
    positions = math.prod(shape[2:])
    expected = -0.5 * math.sqrt(6 / 2) / positions * orthogonalized(gradient.flatten(1))
    near(weights.detach().flatten(1), expected)


@ENGINES
def test_constrained_weights_never_leave_the_ball(engine: str) -> None:
    # ‖θ‖₂ ≤ ρ·√(rows/cols), up to the 1.2 that Newton–Schulz makes of a singular value.
    radius = 2.0 * math.sqrt(6 / 9)
    weights = torch.zeros(6, 9, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Scion(lr=0.5, scale=2.0), engine=engine)
    for seed in range(20):
        weights.grad = 100 * torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        optimizer.step()
        assert float(torch.linalg.matrix_norm(weights.detach(), 2)) <= 1.2 * radius


def test_with_the_sign_norm_every_weight_stays_within_one_number() -> None:
    weights = torch.zeros(6, 9, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Scion(lr=0.5, scale=2.0, norm="sign"))
    for seed in range(20):
        weights.grad = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        optimizer.step()
        assert float(weights.detach().abs().max()) <= 2.0 / 9 + 1e-12


def test_vectors_and_matrices_share_a_group() -> None:
    matrix, vector = torch.ones(3, 4, requires_grad=True), torch.ones(5, requires_grad=True)
    optimizer = Optimizer([matrix, vector], Scion(lr=0.1))
    matrix.grad, vector.grad = torch.randn(3, 4), torch.randn(5)
    optimizer.step()
    again = Optimizer([matrix, vector], Scion())
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[vector]["momentum_buffer"], optimizer.state[vector]["momentum_buffer"])
