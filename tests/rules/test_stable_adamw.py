"""StableAdamW, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import StableAdamW

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def test_two_steps_of_one_number(walk: Walk) -> None:
    # β̂ = 0 at first: m₁ = g₁, u₁ = g₁², RMS = 1. Then β̂₁ = 0.5·0.5/0.75 = 1/3, β̂₂ = 0.75·0.25/0.4375 = 3/7:
    # m₂ = 2/3 + 8/3, u₂ = 3/7·4 + 4/7·16 = 76/7, RMS = 4/√u₂ > 1, m₂/√u₂/RMS = 10/12
    after1 = 1 - 0.1 * (1 + 0.5)
    after2 = after1 - 0.1 * (10 / 12 + 0.5 * after1 * math.sqrt(76 / 7) / 4)
    rule = StableAdamW(lr=0.1, betas=(0.5, 0.75), eps=1e-12, weight_decay=0.5)
    assert walk(rule, 1.0, [2.0, 4.0]) == [
        approx({"weight": after1, "exp_avg": 2.0, "exp_avg_sq": 4.0}),
        approx({"weight": after2, "exp_avg": 10 / 3, "exp_avg_sq": 76 / 7}),
    ]


@ENGINES
@pytest.mark.parametrize("decay", ["inside", "decoupled"])
def test_three_steps_of_one_tensor(decay: str, engine: str) -> None:
    beta1, beta2, eps, weight_decay, lr = 0.9, 0.99, 0.1, 0.05, 0.2
    theta, m, u, clipped = [3.0, -4.0], [0.0, 0.0], [0.0, 0.0], []
    weights = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    rule = StableAdamW(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, decay=decay)
    optimizer = Optimizer([weights], rule, engine=engine)
    for t, g in enumerate([[1.0, 0.01], [-3.0, 0.2], [0.2, 0.1]], start=1):
        hat1, hat2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in (beta1, beta2))
        m = [hat1 * m[i] + (1 - hat1) * g[i] for i in (0, 1)]
        u = [hat2 * u[i] + (1 - hat2) * g[i] ** 2 for i in (0, 1)]
        rms = math.sqrt(sum(g[i] ** 2 / max(u[i], eps**2) for i in (0, 1)) / 2)
        clipped.append(rms > 1)
        rate = lr / max(1.0, rms)
        shrunk = [x * (1 - (rate if decay == "inside" else lr) * weight_decay) for x in theta]
        theta = [shrunk[i] - rate * m[i] / (math.sqrt(u[i]) + eps) for i in (0, 1)]
        weights.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert weights.tolist() == approx(theta, rel=1e-12)
    assert clipped == [False, True, False]


@ENGINES
def test_a_sudden_gradient_takes_no_longer_step(engine: str) -> None:
    # After a thousandfold gradient RMS is almost 1/√(1 − β̂₂), and the step is cut to that share.
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], StableAdamW(lr=0.1, betas=(0.0, 0.99), weight_decay=0.0), engine=engine)
    for size in [1.0] * 50 + [1e3]:
        before = weights.detach().clone()
        weights.grad = torch.tensor([size, -size, size, -size], dtype=torch.float64)
        optimizer.step()
        # With β₁ = 0 the unclipped step would be size/√u, which is just RMS.
        assert (weights.detach() - before).abs().tolist() == approx([0.1] * 4, rel=1e-4)
