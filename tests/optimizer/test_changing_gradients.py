"""Steps in which other parameters have a gradient than in the step before: experts, heads, and layers in turn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, rules
from stepwell.optimizer import batching


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
