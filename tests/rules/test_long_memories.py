"""What is remembered for long keeps its digits in float32: 1 − β is worked out before it is rounded, not after.

Rounded first, 1 − 0.99999 is off by 3e-3.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule, ema, rules

LONG = 0.99999
CASES: list[tuple[Rule, tuple[str, ...]]] = [
    (rules.Adafactor(beta1=LONG), ("exp_avg",)),
    (rules.CAME(betas=(LONG, LONG, LONG)), ("exp_avg", "exp_avg_sq_row", "exp_avg_res_col")),
    (rules.DAdaptAdam(betas=(0.9, LONG)), ("s",)),
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
