"""NorMuon: after normalisation all neurons move alike, and the update has the RMS that it should have."""

from __future__ import annotations

import math

import pytest
import torch

from rules.singular_values import diagonal, near, newton_schulz
from stepwell import Optimizer
from stepwell.rules import NorMuon

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])
EPS = 1e-10


@pytest.mark.parametrize("adjust", [None, "original"])
@ENGINES
def test_two_steps(engine: str, adjust: str | None) -> None:
    # Diagonal matrices of 2×4: row i of O has the one element oᵢ, so its mean square is oᵢ²/4.
    lr, decay, mu, beta2 = 0.1, 0.5, 0.8, 0.9
    theta, buffer, moment = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    weights = diagonal(theta, 2, 4).requires_grad_()
    rule = NorMuon(lr=lr, weight_decay=decay, momentum=mu, beta2=beta2, nesterov=False, adjust_lr_fn=adjust)
    optimizer = Optimizer([weights], rule, engine=engine)
    for gradient in ([3.0, 4.0], [-1.0, 2.0]):
        buffer = [mu * b + (1 - mu) * g for b, g in zip(buffer, gradient, strict=True)]
        orthogonal = newton_schulz(buffer)
        moment = [beta2 * v + (1 - beta2) * o * o / 4 for v, o in zip(moment, orthogonal, strict=True)]
        normalized = [o / (math.sqrt(v) + EPS) for o, v in zip(orthogonal, moment, strict=True)]
        # The paper's 0.2·√(rows·cols), or the norm before (√max(1, 2/4) = 1).
        length = 0.2 * math.sqrt(8) if adjust is None else math.hypot(*orthogonal)
        scale = length / math.hypot(*normalized)
        theta = [0.95 * p - lr * scale * n for p, n in zip(theta, normalized, strict=True)]
        weights.grad = diagonal(gradient, 2, 4)
        optimizer.step()
        near(weights.detach(), diagonal(theta, 2, 4))
        near(optimizer.state[weights]["momentum_buffer"], diagonal(buffer, 2, 4))
        near(optimizer.state[weights]["second_momentum_buffer"], torch.tensor(moment, dtype=torch.float64)[:, None])


@ENGINES
def test_all_rows_take_first_steps_of_one_length(engine: str) -> None:
    gradient = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = gradient * torch.logspace(-2, 2, 7, dtype=torch.float64)[:, None]
    weights = torch.zeros(7, 5, dtype=torch.float64, requires_grad=True)
    weights.grad = gradient
    Optimizer([weights], NorMuon(lr=0.1), engine=engine).step()
    # RMS 0.2 in the whole, so that each row has the length 0.1·0.2·√5.
    near(weights.detach().norm(dim=-1), torch.full((7,), 0.02 * math.sqrt(5), dtype=torch.float64), 1e-7)


def test_one_number_a_row_beside_the_momentum() -> None:
    weights = torch.zeros(3, 6, 4, requires_grad=True)
    weights.grad = torch.ones(3, 6, 4)
    optimizer = Optimizer([weights], NorMuon())
    optimizer.step()
    assert optimizer.state[weights]["second_momentum_buffer"].shape == (3, 6, 1)


@ENGINES
def test_blocks_of_rows_are_scaled_on_their_own(engine: str) -> None:
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    parts = [torch.zeros(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    together = Optimizer([whole], NorMuon(lr=0.1, split=2), engine=engine)
    alone = Optimizer(parts, NorMuon(lr=0.1), engine=engine)
    for step in (1, 2):
        whole.grad = (step * gradient).cos()
        for part, block in zip(parts, whole.grad.split(3), strict=True):
            part.grad = block.clone()
        together.step()
        alone.step()
    near(whole.detach(), torch.cat(parts).detach())
