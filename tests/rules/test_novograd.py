"""NovoGrad: momentum of gradients that are divided by their layer's norm."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import NovoGrad

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])


@pytest.mark.parametrize("averaging", [False, True])
def test_two_steps_of_a_number(walk: Walk, averaging: bool) -> None:
    # v₁ = 4, m₁ = 2/2 = 1 + λθ = 1.5; v₂ = 0.75·4 + 0.25·9 = 5.25, m₂ = 0.5·1.5 + s·(−3/√5.25 + 0.5·0.85).
    rule = NovoGrad(lr=0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.5, grad_averaging=averaging)
    m2 = 0.75 + (0.5 if averaging else 1.0) * (-3 / math.sqrt(5.25) + 0.5 * 0.85)
    assert walk(rule, 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.85, "exp_avg": 1.5, "exp_avg_sq": 4.0}),
        approx({"weight": 0.85 - 0.1 * m2, "exp_avg": m2, "exp_avg_sq": 5.25}),
    ]


@ENGINES
def test_the_first_step_has_the_length_of_the_rate(engine: str) -> None:
    weights = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (7,), ())]
    for seed, p in enumerate(weights):
        p.grad = 10.0**seed * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    optimizer = Optimizer(weights, NovoGrad(lr=0.1), engine=engine)
    optimizer.step()
    for p in weights:
        assert float(p.detach().norm()) == approx(0.1)
        assert optimizer.state[p]["exp_avg_sq"].shape == ()
