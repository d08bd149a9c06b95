"""Prodigy and D-Adaptation: the estimate of the distance grows until steps are as long as they should be."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer, Rule
from stepwell.rules import DAdaptAdam, Prodigy

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def test_three_steps_of_prodigy(walk: Walk) -> None:
    # The formulas of the paper on one number, with β = (0.5, 0.75) and β₃ = 0.5; d₀ = 0.1, ε = 0, γ = 1.
    beta1, beta2, beta3, d0 = 0.5, 0.75, 0.5, 0.1
    theta = theta0 = 1.0
    m = v = s = r = 0.0
    d, expected = d0, []
    for g in (2.0, 1.0, 3.0):
        r = beta3 * r + d / d0 * d * g * (theta0 - theta)
        s = beta3 * s + d / d0 * d * g
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * (d * g) ** 2
        theta -= d * m / math.sqrt(v)
        following = max(d, r / abs(s))
        expected.append({"weight": theta, "exp_avg": m, "exp_avg_sq": v, "s": s, "d": d, "next_d": following})
        d = following
    assert d > d0  # it has grown: else this would not show how
    rule = Prodigy(betas=(beta1, beta2), beta3=beta3, d0=d0, eps=0.0)
    for after, values in zip(walk(rule, 1.0, [2.0, 1.0, 3.0]), expected, strict=True):
        assert {name: after[name] for name in values} == approx(values)


def test_three_steps_of_d_adaptation(walk: Walk) -> None:
    beta1, beta2, d0, eps = 0.5, 0.25, 0.1, 1e-8
    memory = 0.5
    theta, m, v, s, r, d, expected = 1.0, 0.0, 0.0, 0.0, 0.0, d0, []
    for g in (2.0, 1.0, 3.0):
        r = memory * r + (1 - memory) * d * g * s / (math.sqrt(v) + eps)
        s = memory * s + (1 - memory) * d * g
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * g * g
        theta -= m / (math.sqrt(v) + eps)
        following = max(d, r / ((1 - memory) * abs(s)))
        expected.append({"weight": theta, "exp_avg": m, "exp_avg_sq": v, "s": s, "d": d, "next_d": following})
        d = following
    assert d > d0
    rule = DAdaptAdam(betas=(beta1, beta2), d0=d0, eps=eps)
    for after, values in zip(walk(rule, 1.0, [2.0, 1.0, 3.0]), expected, strict=True):
        assert {name: after[name] for name in values} == approx(values)


@pytest.mark.parametrize("rule", [Prodigy(), DAdaptAdam()], ids=["prodigy", "d-adaptation"])
@ENGINES
def test_the_estimate_finds_the_distance(engine: str, rule: Rule) -> None:
    # |x − 10| and |y + 5| from 0, with γ from 1 to 0: d rises from 1e-6 by five orders and more, and then ends.
    x, y = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Optimizer([x, y], rule, engine=engine)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 1 - step / 400
        optimizer.zero_grad()
        ((x - 10).abs().sum() + (y + 5).abs().sum()).backward()
        optimizer.step()
    assert 0.05 < optimizer.state[x]["d"] < 30
    assert optimizer.state[x]["d"] == optimizer.state[y]["d"]
    assert float((x.detach() - 10).abs().max()) < 1.0
    assert float((y.detach() + 5).abs().max()) < 1.0


@pytest.mark.parametrize("rule", [Prodigy(d0=0.01), DAdaptAdam(d0=0.01)], ids=["prodigy", "d-adaptation"])
@ENGINES
def test_the_sums_are_over_all_parameters_and_groups(engine: str, rule: Rule) -> None:
    # The same numbers in one tensor, or cut and spread over two groups: one estimate.
    def run(cuts: list[slice], groups: int) -> tuple[list[float], float]:
        whole = torch.arange(1.0, 7.0, dtype=torch.float64)
        parameters = [whole[cut].clone().requires_grad_() for cut in cuts]
        optimizer = Optimizer([{"params": parameters[n::groups]} for n in range(groups)], rule, engine=engine)
        for _ in range(30):
            for p in parameters:
                p.grad = p.detach() ** 3
            optimizer.step()
        estimates = {optimizer.state[p]["d"] for p in parameters}
        assert max(estimates) - min(estimates) < 1e-12
        return torch.cat(parameters).tolist(), max(estimates)

    expected, d = run([slice(0, 6)], 1)
    weights, also_d = run([slice(0, 2), slice(2, 3), slice(3, 6)], 2)
    assert weights == approx(expected, rel=1e-9)
    assert also_d == approx(d, rel=1e-9)
    assert d > 0.01


SHARED = {Prodigy: ("d", "next_d", "d_max", "d_numerator"), DAdaptAdam: ("d", "next_d", "numerator_weighted")}


@pytest.mark.parametrize("kind", [Prodigy, DAdaptAdam])
@ENGINES
def test_one_estimate_for_all_that_come_and_go(engine: str, kind: Any) -> None:
    first, second, third = (torch.full((2,), 3.0 + n, dtype=torch.float64, requires_grad=True) for n in range(3))
    optimizer = Optimizer([first, second], kind(d0=0.01), engine=engine)

    def steps(count: int, *parameters: torch.Tensor) -> None:
        optimizer.zero_grad()
        for _ in range(count):
            for p in parameters:
                p.grad = p.detach() ** 3
            optimizer.step()

    def numbers(p: torch.Tensor) -> list[float]:
        return [optimizer.state[p][name] for name in SHARED[kind]]

    steps(10, first, second)
    grown = optimizer.state[first]["next_d"]
    assert grown > 0.01
    optimizer.add_param_group({"params": [third]})
    steps(1, second, third)  # one stands still, one is new, which steps by what is known
    assert optimizer.state[third]["d"] == grown
    assert numbers(first) == numbers(second) == numbers(third)
    assert optimizer.state[first]["step"] == 10
    steps(5, first, third)
    assert numbers(first) == numbers(second) == numbers(third)


@pytest.mark.parametrize("kind", [Prodigy, DAdaptAdam])
def test_a_group_that_stands_still_does_not_stop_the_estimate(kind: Any) -> None:
    still, moving = (torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Optimizer([{"params": [still], "lr": 0.0}, {"params": [moving]}], kind(d0=0.01))
    for _ in range(10):
        still.grad, moving.grad = still.detach() ** 3, moving.detach() ** 3
        optimizer.step()
    assert still.tolist() == [3.0, 3.0]
    assert optimizer.state[still]["d"] == optimizer.state[moving]["d"] > 0.01


@pytest.mark.parametrize("safeguard_warmup", [False, True])
@ENGINES
def test_a_group_that_stands_still_is_in_no_sum(engine: Any, safeguard_warmup: bool) -> None:
    rule, found = Prodigy(d0=0.01, safeguard_warmup=safeguard_warmup), []
    for groups in (1, 2):
        moving, still = (torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
        both = [{"params": [moving]}, {"params": [still], "lr": 0.0}]
        optimizer = Optimizer(both[:groups], rule, engine=engine)
        for _ in range(10):
            still.grad, moving.grad = still.detach() ** 3, moving.detach() ** 3
            optimizer.step()
        found.append(optimizer.state[moving]["next_d"])
    assert found[0] == approx(found[1], rel=1e-12)
    assert optimizer.state[still]["s"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", [Prodigy, DAdaptAdam])
def test_growth_may_be_limited(kind: Any) -> None:
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, seen = Optimizer([p], kind(d0=0.01, growth_rate=1.5)), []
    for _ in range(20):
        p.grad = torch.ones(1, dtype=torch.float64) * -1.0
        optimizer.step()
        seen.append(optimizer.state[p]["d"])
    ratios = [b / a for a, b in itertools.pairwise(seen)]
    assert max(ratios[2:]) <= 1.5 + 1e-12
    assert seen[-1] > seen[0]


@pytest.mark.parametrize("kind", [Prodigy, DAdaptAdam])
@ENGINES
def test_gradients_of_zeros_and_a_rate_of_zero_change_nothing(engine: str, kind: Any) -> None:
    p = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], kind(), engine=engine)
    p.grad = torch.zeros(2, dtype=torch.float64)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    p.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert p.tolist() == [1.0, 1.0]
    assert optimizer.state[p]["next_d"] == 1e-6
