"""Steps in which other parameters have a gradient than in the step before: experts, heads, and layers in turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, rules
from stepwell.optimizer import batching
from stepwell.optimizer.preparing import prepare
from stepwell.rules import Rule


def weights() -> list[Tensor]:
    return [torch.full((4, 3), 0.5 * (1 + index), requires_grad=True) for index in range(4)]


def give(parameters: list[Tensor], turn: int) -> None:
    """The first always has a gradient, of the others one at a time."""
    for index, p in enumerate(parameters):
        has = index in (0, 1 + turn % 3)
        p.grad = torch.full_like(p, 0.1 * (1 + index + turn)) if has else None


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_what_was_made_for_a_step_serves_the_next_of_its_kind(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = weights()
    optimizer = Optimizer(parameters, rules.AdamW(lr=0.1), engine=engine, clip_norm=1.0)
    for turn in range(6):
        give(parameters, turn)
        optimizer.step()
    monkeypatch.setattr(batching, "prepare", None)  # making would fail
    for turn in range(6, 12):
        give(parameters, turn)
        optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in parameters] == [12, 4, 4, 4]


def test_a_kind_of_step_that_is_new_looks_at_no_parameter_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = weights()
    optimizer = Optimizer([{"params": parameters[:2]}, {"params": parameters[2:], "rule": "SGD"}], rules.AdamW(lr=0.1))
    looked_at: list[Tensor] = []

    def counted(rule: Rule, parameter: Tensor, *rest: Any) -> Any:
        looked_at.append(parameter)
        return prepare(rule, parameter, *rest)

    monkeypatch.setattr(batching, "prepare", counted)

    def step(*indices: int) -> list[int]:
        """Which parameters are looked at in a step of those."""
        looked_at.clear()
        for index, p in enumerate(parameters):
            p.grad = torch.ones_like(p) if index in indices else None
        optimizer.step()
        return [index for index, p in enumerate(parameters) for one in looked_at if one is p]

    assert step(0, 1, 2) == [0, 1, 2]
    assert step(1, 2) == []
    assert step(1, 2, 3) == [3]
    assert step(0, 3) == []
    optimizer.state[parameters[1]] = {}  # begins anew
    assert step(1, 3) == [1]
    parameters[2].data = parameters[2].detach().t()  # lies otherwise in memory
    assert step(2) == [2]
    optimizer.param_groups[0]["amsgrad"] = True  # decides slots
    assert step(0, 2) == [0, 2]
    optimizer.load_state_dict(optimizer.state_dict())
    assert step(0, 1, 3) == [0, 1, 3]
    assert [int(optimizer.state[p]["step"]) for p in parameters] == [4, 2, 5, 4]


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_the_numbers_are_those_of_torch(engine) -> None:
    ours, theirs = weights(), weights()
    mine = Optimizer(ours, rules.AdamW(lr=0.1, weight_decay=0.01), engine=engine)
    peer = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.01)
    for turn in range(9):
        if turn == 4:  # what rests, too, reads live numbers
            mine.param_groups[0]["lr"] = peer.param_groups[0]["lr"] = 0.03
        if turn == 6:  # and sees that a state is another
            mine.load_state_dict(mine.state_dict())
        for parameters, optimizer in ((ours, mine), (theirs, peer)):
            give(parameters, turn)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_what_rests_is_made_anew_where_a_parameter_has_changed() -> None:
    parameters = weights()
    optimizer = Optimizer(parameters, rules.SGD(lr=1.0), engine="fused")
    for turn in range(6):
        give(parameters, turn)
        optimizer.step()
    moved = parameters[1].detach().clone()
    parameters[1].data = moved  # other memory
    give(parameters, 6)
    before = moved.clone()
    optimizer.step()
    assert parameters[1].grad is not None
    assert torch.allclose(parameters[1].detach(), before - parameters[1].grad)


def test_no_more_kinds_are_remembered_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_RESTING", 2)
    parameters = weights()
    optimizer = Optimizer(parameters, rules.SGD(lr=1.0))
    for turn in range(9):
        give(parameters, turn)
        optimizer.step()
        assert len(optimizer._buckets._resting) <= 2
