"""RAdam, worked out by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import RAdam
from stepwell.rules.radam import rectification

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def test_two_steps_before_the_variance_is_known(walk: Walk) -> None:
    # β₁ = 0.5: m̂₁ = 2; m₂ = 0.5·1 + 0.5·4 = 2.5, m̂₂ = 2.5/0.75. The second moment is kept, and not yet used.
    assert walk(RAdam(lr=0.1, betas=(0.5, 0.75), eps=0.1), 1.0, [2.0, 4.0]) == [
        approx({"weight": 0.8, "exp_avg": 1.0, "exp_avg_sq": 1.0}),
        approx({"weight": 0.8 - 1 / 3, "exp_avg": 2.5, "exp_avg_sq": 4.75}),
    ]


def recursion(gradients: list[float], lr: float, beta1: float, beta2: float, eps: float) -> list[float]:
    """Algorithm 2 of arXiv:1908.03265 from a weight of 0, with torch's threshold and ε."""
    weight = m = v = 0.0
    path = []
    longest = 2 / (1 - beta2) - 1
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        step = m / (1 - beta1**t)
        if length > 5:
            r = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
            step *= r * (1 - beta2**t) ** 0.5 / (v**0.5 + eps)
        weight -= lr * step
        path.append(weight)
    return path


@ENGINES
@pytest.mark.parametrize("beta2", [0.999, 0.9, 0.6, 1 / 3, 0.0])
def test_ten_steps(beta2: float, engine: str) -> None:
    gradients = [1.0, -0.5, 2.0, 0.3, -1.5, 0.7, 1.0, -0.2, 1.1, -2.0]
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], RAdam(lr=0.1, betas=(0.8, beta2), eps=1e-3), engine=engine)
    for gradient, expected in zip(gradients, recursion(gradients, 0.1, 0.8, beta2, 1e-3), strict=True):
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert p.item() == approx(expected, rel=1e-12)


@pytest.mark.parametrize(("least", "first"), [(4.0, 5), (5.0, 6)])
def test_when_the_variance_is_known(least: float, first: int) -> None:
    # With β₂ = 0.999, ρ is 1 at the first step and grows by a little less than 1 a step.
    assert [rectification(0.999, t, least)[0] for t in range(1, 9)] == [t >= first for t in range(1, 9)]
    assert [rectification(0.999, t, least)[1] for t in range(1, first)] == [0.0] * (first - 1)
    assert rectification(0.999, 10**6, least)[1] == approx(1.0)


def test_the_second_phase_is_independent_of_the_gradients_scale(walk: Walk) -> None:
    # The first is not: its steps are ten times as long for gradients ten times as large.
    rule, gradients = RAdam(lr=0.1, eps=0.0), [1.0, -0.5, 2.0, 0.3, -1.5, 0.7, 1.0]
    path = [0.0, *(after["weight"] for after in walk(rule, 0.0, gradients))]
    scaled = [0.0, *(after["weight"] for after in walk(rule, 0.0, [10 * g for g in gradients]))]
    steps = [after - before for before, after in itertools.pairwise(path)]
    assert [after - before for before, after in itertools.pairwise(scaled)] == approx(
        [10 * step for step in steps[:5]] + steps[5:]
    )
