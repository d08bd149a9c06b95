"""What a rule says of the size of its steps is measured, not trusted."""

from __future__ import annotations

import itertools

import pytest
import torch

from conformance.cases import PLAIN_CASES, Case, rows
from stepwell import Optimizer
from stepwell.rules import AdamW, Rule, cautious, ema, lookahead, schedule_free

RATE = 1e-3
FIRST, LAST = 10, 20  # the steps that are measured: the first ones are another matter for rules that warm up


def _size_of_steps(rule: Rule, gradient_size: float, weight_size: float, steady: float) -> float:
    """The mean of |Δp| over the rate, over all elements and some steps, where the gradients are noise around what is
    steady in them."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(weight_size * torch.randn(32, 32, dtype=torch.float64, generator=generator))
    optimizer = Optimizer([parameter], rule.but(lr=RATE, weight_decay=0.0), engine="foreach")
    moved = []
    for _ in range(LAST):
        parameter.grad = gradient_size * (steady + torch.randn(32, 32, dtype=torch.float64, generator=generator))
        before = parameter.detach().clone()
        optimizer.step()
        moved.append(float((parameter.detach() - before).abs().mean()) / RATE)
    return sum(moved[FIRST:]) / len(moved[FIRST:])


@rows([case for case in PLAIN_CASES if "(" not in case.name])
def test_steps_are_about_the_rate_where_a_rule_says_so_and_nowhere_else(case: Case) -> None:
    trials = itertools.product((0.01, 100.0), (0.02, 2.0), (0.0, 3.0))
    sizes = [_size_of_steps(type(case.rule)(), *trial) for trial in trials]
    about_the_rate = min(sizes) > 0.01 and max(sizes) < 3.0 and max(sizes) < 10.0 * min(sizes)
    assert case.rule.moves_by_rate == about_the_rate, sizes


@pytest.mark.parametrize("wrapper", [cautious, ema, lookahead, schedule_free])
def test_what_is_wrapped_around_a_rule_leaves_them_so(wrapper) -> None:
    rule = wrapper(AdamW(betas=(0.0, 0.999)))
    assert rule.moves_by_rate
    assert 0.05 < _size_of_steps(rule, 1.0, 1.0, steady=0.0) < 3.0
