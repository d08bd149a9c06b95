"""SOAP and Shampoo with their costly work shared out over the steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from conformance.cases import assert_near, assert_same_bits
from conformance.training import parameter, parameters_of, slots_of, train
from rules.singular_values import near
from stepwell import Optimizer
from stepwell.optimizer.turns import turns_of
from stepwell.rules import SOAP, Rule, Shampoo
from stepwell.rules.soap import turning_work

SHAPES = ((4, 6), (6, 4), (5, 5), (3, 7))
SPREAD = (
    SOAP(lr=0.05, betas=(0.8, 0.9), precondition_frequency=4, spread_refresh=True),
    Shampoo(lr=0.05, eps=0.1, precondition_frequency=4, spread_refresh=True),
)
each = pytest.mark.parametrize("rule", SPREAD, ids=lambda rule: type(rule).__name__)
KEPT = {"SOAP": ("row_basis", "column_basis"), "Shampoo": ("row_root", "column_root")}


def weights(shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [parameter(shape, dtype, seed) for seed, shape in enumerate(shapes)]


def of(optimizer: Optimizer) -> list[Tensor]:
    return optimizer.param_groups[0]["params"]


def renewed(optimizer: Optimizer, steps: int) -> list[set[tuple[int, str]]]:
    """At each step, which sides got a new basis or root."""
    kept, found = KEPT[type(optimizer.rule).__name__], []
    for step in range(1, steps + 1):
        before = {
            (index, name): optimizer.state[p].get(name, torch.zeros(0)).clone()
            for index, p in enumerate(of(optimizer))
            for name in kept
        }
        train(optimizer, of(optimizer), first=step, last=step)
        found.append(
            {key for key, was in before.items() if not torch.equal(optimizer.state[of(optimizer)[key[0]]][key[1]], was)}
        )
    return found


# Turns


def test_turns_by_hand() -> None:
    # Works n³·4 + n²·m of sides 4, 3, 2 and 2: 4: 256 + 48, 3: 108 + 36, 2: 32 + 8 twice; the largest first, each to
    # the turn with the least: 0 | 1 | 2 | and the last to turn 2 again, which has 40 of 144 and 304.
    rule = SOAP(precondition_frequency=3, spread_refresh=True)
    first, second = torch.zeros(4, 3), torch.zeros(2, 2)
    assert turning_work((4, 3), side=0, dims=2, limit=10, one_sided=False) == 4 * 64 + 48
    found = turns_of([(second, rule), (first, rule)])
    assert found[id(first)] == {"row_turn": 0.0, "column_turn": 1.0}
    assert found[id(second)] == {"row_turn": 2.0, "column_turn": 2.0}


def test_no_step_has_more_than_twice_the_mean() -> None:
    # The hidden matrices of GPT-2 small, with the products of every step beside the turns of the bases.
    shapes = [(768, 768)] * 48 + [(768, 3072)] * 12 + [(3072, 768)] * 12
    rule = SOAP(spread_refresh=True)
    parameters = [torch.empty(shape, device="meta") for shape in shapes]
    turns = turns_of([(p, rule) for p in parameters])
    period = rule.precondition_frequency
    # Two factors, and there and back through two bases: 3·(n²·m + n·m²).
    always = sum(3 * (n * n * m + n * m * m) for n, m in shapes)
    loads = [0.0] * period
    for p in parameters:
        for side, name in enumerate(("row_turn", "column_turn")):
            work = turning_work(tuple(p.shape), side=side, dims=2, limit=rule.max_precond_dim, one_sided=False)
            loads[int(turns[id(p)][name])] += work
    mean = always + sum(loads) / period
    assert always + max(loads) <= 1.2 * mean
    assert always + sum(loads) > 2 * mean  # all at once


@each
def test_every_side_is_renewed_once_in_a_period(rule: Any) -> None:
    optimizer = Optimizer(weights(), rule)
    rounds = renewed(optimizer, 13)
    sides = {(index, name) for index in range(4) for name in KEPT[type(rule).__name__]}
    assert rounds[0] == sides  # the first step as in the paper
    for start in (1, 5, 9):
        round_ = rounds[start : start + 4]
        assert set.union(*round_) == sides
        assert sum(map(len, round_)) == len(sides)
        assert all(len(step) <= 3 for step in round_)
    for earlier, later in zip(rounds[1:9], rounds[5:], strict=True):
        assert earlier == later


# What it works out


@each
def test_every_engine_gives_what_the_reference_gives(rule: Any) -> None:
    ours, expected = Optimizer(weights(), rule), Optimizer(weights(), rule, engine="reference")
    for optimizer in (ours, expected):
        train(optimizer, of(optimizer), last=10)
    assert_near(parameters_of(ours), parameters_of(expected), 1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (3, 2, 2, 2)], ids=str)
def test_renewed_at_each_step_it_is_the_paper(shape: tuple[int, ...]) -> None:
    # With a period of 1 all turns are the same, and one side after the other is both at once.
    for merge_dims in (True, False):
        rule = SOAP(lr=0.05, betas=(0.8, 0.9), precondition_frequency=1, merge_dims=merge_dims)
        plain, spread = (Optimizer(weights([shape]), one) for one in (rule, rule.but(spread_refresh=True)))
        for optimizer in (plain, spread):
            train(optimizer, of(optimizer), last=8)
        near(parameters_of(spread)[0], parameters_of(plain)[0], 1e-7)


def test_a_root_of_shampoo_is_as_old_as_its_turn_says() -> None:
    # 1×1 with eps = 1: both factors are 1 + Σg², with roots (…)^(−1/4). All gradients are 1, so after step t they are
    # t + 1. The row's turn is 0 (its work is equal, and it comes first): renewed when t − 1 is even; the column's is 1.
    p = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], Shampoo(lr=1.0, eps=1.0, precondition_frequency=2, spread_refresh=True))
    moved = []
    for _ in range(4):
        before = p.item()
        p.grad = torch.ones(1, 1, dtype=torch.float64)
        optimizer.step()
        moved.append(before - p.item())
    rows, columns = (2, 2, 4, 4), (2, 3, 3, 5)
    assert moved == pytest.approx([(r * c) ** -0.25 for r, c in zip(rows, columns, strict=True)])


# Resume, and other ways to step


@each
def test_training_goes_on_with_the_same_bits(rule: Any) -> None:
    whole, half = Optimizer(weights(), rule), Optimizer(weights(), rule)
    train(whole, of(whole), last=9)
    train(half, of(half), last=6)
    resumed = Optimizer([p.clone().requires_grad_() for p in parameters_of(half)], type(rule)())
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    train(resumed, of(resumed), first=7, last=9)
    assert_same_bits(parameters_of(resumed), parameters_of(whole))
    assert_same_bits(slots_of(resumed), slots_of(whole))


@each
def test_state_of_a_training_without_turns_gets_some(rule: Any) -> None:
    before = Optimizer(weights(), rule.but(spread_refresh=False))
    train(before, of(before), last=3)
    saved = before.state_dict()
    saved["param_groups"][0]["spread_refresh"] = True
    resumed = Optimizer(of(before), rule)
    resumed.load_state_dict(saved)
    train(resumed, of(resumed), first=4, last=4)
    assert len({resumed.state[p]["row_turn"] for p in of(resumed)}) > 1


@each
def test_turns_do_not_depend_on_when_a_gradient_comes(rule: Any) -> None:
    usual, late = Optimizer(weights(), rule), Optimizer(weights(), rule)
    train(usual, of(usual), last=2)
    for step in (1, 2):
        for p in of(late):
            p.grad = None
        train(late, of(late)[2 * step - 2 : 2 * step], first=1, last=1)
    names = [name for name in usual.state[of(usual)[0]] if name.endswith("_turn")]
    assert len(names) == 2
    for p, q in zip(of(usual), of(late), strict=True):
        assert [usual.state[p][name] for name in names] == [late.state[q][name] for name in names]


@each
def test_in_the_backward_pass(rule: Rule) -> None:
    trained = []
    for in_backward in (True, False):
        model = nn.ParameterList([nn.Parameter(p.detach()) for p in weights([(190, 180), (185, 195)])])
        optimizer = Optimizer(model.parameters(), rule)
        if in_backward:
            stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
        for step in range(6):
            optimizer.zero_grad()
            loss: Any = sum((p * parameter(p.shape, torch.float64, step)).sum() for p in model)
            loss.backward()
            optimizer.step()
        trained.append(optimizer)
    assert_same_bits(parameters_of(trained[0]), parameters_of(trained[1]))
    assert not math.isnan(float(parameters_of(trained[0])[0].sum()))
