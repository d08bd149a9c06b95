"""AdaMuon: signs of a momentum, orthogonalised, and scaled element by element."""

from __future__ import annotations

import math

import pytest
import torch

from rules.singular_values import diagonal, near, newton_schulz
from stepwell import Optimizer
from stepwell.rules import AdaMuon

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])
EPS = 1e-8


@pytest.mark.parametrize("signs", [True, False])
@ENGINES
def test_two_steps(engine: str, signs: bool) -> None:
    # On diagonal matrices all is arithmetic on the diagonal: elsewhere O is 0, and 0/(√0 + ε) too.
    lr, decay, mu, beta2 = 0.1, 0.5, 0.8, 0.9
    theta, buffer, moment = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    weights = diagonal(theta, 2, 4).requires_grad_()
    rule = AdaMuon(lr=lr, weight_decay=decay, momentum=mu, beta2=beta2, sign_stabilized=signs)
    optimizer = Optimizer([weights], rule, engine=engine)
    for gradient in ([3.0, 4.0], [-9.0, 2.0]):
        buffer = [mu * b + (1 - mu) * g for b, g in zip(buffer, gradient, strict=True)]
        orthogonal = newton_schulz([math.copysign(1, b) for b in buffer] if signs else buffer)
        moment = [beta2 * v + (1 - beta2) * o * o for v, o in zip(moment, orthogonal, strict=True)]
        normalized = [o / (math.sqrt(v) + EPS) for o, v in zip(orthogonal, moment, strict=True)]
        scale = 0.2 * math.sqrt(8) / math.hypot(*normalized)
        theta = [0.95 * p - lr * scale * n for p, n in zip(theta, normalized, strict=True)]
        weights.grad = diagonal(gradient, 2, 4)
        optimizer.step()
        near(weights.detach(), diagonal(theta, 2, 4))
        near(optimizer.state[weights]["momentum_buffer"], diagonal(buffer, 2, 4))
        near(optimizer.state[weights]["exp_avg_sq"], diagonal(moment, 2, 4))


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)], ids=["square", "wide", "tall"])
@ENGINES
def test_every_step_has_the_rms_of_a_fifth_of_the_rate(engine: str, shape: tuple[int, int]) -> None:
    weights = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], AdaMuon(lr=0.01, weight_decay=0.0), engine=engine)
    for seed in range(4):
        before = weights.detach().clone()
        weights.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        optimizer.step()
        assert float((weights.detach() - before).square().mean().sqrt()) == pytest.approx(0.2 * 0.01)


def test_the_size_of_gradients_makes_no_difference_between_elements() -> None:
    gradient = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for scale in (torch.ones(5, 5), torch.logspace(-3, 3, 25).reshape(5, 5)):
        weights = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
        weights.grad = gradient * scale
        Optimizer([weights], AdaMuon(lr=0.1)).step()
        results.append(weights.detach())
    near(*results)
