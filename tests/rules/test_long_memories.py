"""What is remembered for long keeps its digits in float32: 1 − β is worked out before it is rounded, not after.

Rounded first, 1 − 0.99999 is off by 3e-3. And what is not remembered is gone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule, ema, grokfast, rules

LONG = 0.99999
CASES: list[tuple[Rule, tuple[str, ...]]] = [
    (rules.Adafactor(beta1=LONG), ("exp_avg",)),
    (rules.CAME(betas=(LONG, LONG, LONG)), ("exp_avg", "exp_avg_sq_row", "exp_avg_res_col")),
    (rules.DAdaptAdam(betas=(LONG, LONG)), ("exp_avg", "s")),
    (rules.Lion(betas=(0.9, LONG)), ("exp_avg",)),
    (rules.Prodigy(betas=(LONG, 0.999)), ("exp_avg",)),
]


def slots_after(rule: Rule, engine: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(6, 5))
    optimizer = Optimizer([p], rule, engine=engine)
    for _ in range(30):
        p.grad = torch.randn(6, 5)
        optimizer.step()
    return optimizer.state[p]


@pytest.mark.parametrize("engine", ["foreach", "fused"])
@pytest.mark.parametrize(("rule", "names"), CASES, ids=lambda value: type(value).__name__)
def test_a_long_memory_keeps_its_digits(rule: Rule, names: tuple[str, ...], engine: Any) -> None:
    exact, found = slots_after(rule, "reference"), slots_after(rule, engine)
    for name in names:
        off: Tensor = (found[name].double() - exact[name].double()).abs().mean() / exact[name].double().abs().mean()
        assert off < 1e-4, f"{name} is off by {off:.1e}"


@pytest.mark.parametrize("engine", ["foreach", "fused"])
def test_a_long_average_of_the_weights_too(engine: Any) -> None:
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = Optimizer([p], ema(rules.SGD(lr=0.0), decay=LONG), engine=engine)
    p.grad = torch.zeros(4)
    optimizer.step()
    optimizer.state[p]["step"] = 10**9  # far past the ramp
    with torch.no_grad():
        p.fill_(1.0)
    optimizer.step()
    # From 0 towards 1: by 1 − β, to float32's digits.
    assert torch.allclose(optimizer.state[p]["ema"], torch.full((4,), 1 - LONG), rtol=1e-6, atol=0)


NO_MEMORY: list[tuple[Rule, str]] = [
    (rules.Adam(betas=(0.0, 0.9)), "exp_avg"),
    (rules.Adan(betas=(0.0, 0.0, 0.0)), "exp_avg_diff"),
    (rules.LAMB(betas=(0.0, 0.9)), "exp_avg"),
    (rules.Lion(betas=(0.9, 0.0)), "exp_avg"),
    (rules.Tiger(beta=0.0), "exp_avg"),
    (grokfast(rules.SGD(), alpha=0.0), "slow_gradient"),
]


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize(("rule", "name"), NO_MEMORY, ids=lambda value: type(value).__name__)
def test_no_memory_keeps_nothing(rule: Rule, name: str, engine: Any) -> None:
    # In float32 30000 + (0.0001 − 30000) is 0.
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = Optimizer([p], rule, engine=engine)
    before = torch.zeros(4)
    for number in (3e4, 1e-4, -1e-4):
        p.grad = torch.full((4,), number)
        optimizer.step()
        if before.any():  # Adan's first difference is 0
            assert torch.equal(optimizer.state[p][name], p.grad - before if name == "exp_avg_diff" else p.grad)
        before = p.grad.clone()
