"""Schedulers of torch, as they are, drive our groups and mean the same as with torch's own optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import stepwell

STEPS = 12
NUMBERS = ("lr", "betas", "momentum", "weight_decay", "initial_lr")

MAKERS: dict[str, Callable[[Any], LRScheduler]] = {
    "LambdaLR": lambda opt: LambdaLR(opt, [lambda step: 1 / (1 + step), lambda step: 0.9**step]),
    "CosineAnnealingLR": lambda opt: CosineAnnealingLR(opt, T_max=5, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda opt: CosineAnnealingWarmRestarts(opt, T_0=3),
    "SequentialLR": lambda opt: SequentialLR(
        opt, [LinearLR(opt, 0.1, total_iters=4), CosineAnnealingLR(opt, T_max=8)], milestones=[4]
    ),
    "OneCycleLR": lambda opt: OneCycleLR(opt, max_lr=[0.1, 0.02], total_steps=STEPS + 1),
    "CyclicLR": lambda opt: CyclicLR(opt, [0.01, 0.02], [0.1, 0.2], step_size_up=3),
}

PEERS: dict[str, Callable[[Any, list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "AdamW": lambda package, groups: package.AdamW(groups, lr=0.05, weight_decay=0.1),
    "SGD": lambda package, groups: package.SGD(groups, lr=0.05, momentum=0.9),
}


def groups() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    return [{"params": [first]}, {"params": [second], "lr": 0.2}]


def step(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        p.grad = torch.cos(3 * p.detach())
    optimizer.step()
    return [p.detach().clone() for p in parameters]


def numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{name: group[name] for name in NUMBERS if name in group} for group in optimizer.param_groups]


@pytest.mark.parametrize("scheduler", MAKERS)
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_values_and_weights_are_torchs(engine: str, peer: str, scheduler: str) -> None:
    ours, theirs = PEERS[peer](stepwell, groups()), PEERS[peer](torch.optim, groups())
    ours = stepwell.Optimizer(ours.param_groups, ours.rule, engine=engine)  # type: ignore[attr-defined, arg-type]
    schedulers = [MAKERS[scheduler](optimizer) for optimizer in (ours, theirs)]
    for _ in range(STEPS):
        assert numbers(ours) == numbers(theirs)
        for a, e in zip(step(ours), step(theirs), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)
        for each in schedulers:
            each.step()
    assert schedulers[0].get_last_lr() == schedulers[1].get_last_lr()


def test_one_cycle_cycles_the_first_beta_and_the_momentum() -> None:
    # What OneCycleLR does at the start, and at the top of the rate: momentum 0.95, then 0.85.
    adamw, sgd = PEERS["AdamW"](stepwell, groups()), PEERS["SGD"](stepwell, groups())
    for optimizer in (adamw, sgd):
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=10, pct_start=0.4)
        seen = []
        for _ in range(4):
            seen.append(optimizer.param_groups[0].get("momentum", optimizer.param_groups[0].get("betas", [None])[0]))
            step(optimizer)
            scheduler.step()
        assert seen[0] == 0.95
        assert seen[-1] == pytest.approx(0.85)
    assert adamw.param_groups[0]["betas"][1] == 0.999


def test_reduce_on_plateau() -> None:
    optimizer = PEERS["AdamW"](stepwell, groups())
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=1)
    for loss in (1.0, 1.0, 1.0):
        step(optimizer)
        scheduler.step(loss)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.02])


@pytest.mark.parametrize("scheduler", MAKERS)
def test_a_resume_goes_on(scheduler: str) -> None:
    def made() -> tuple[torch.optim.Optimizer, LRScheduler]:
        optimizer = PEERS["AdamW"](stepwell, groups())
        return optimizer, MAKERS[scheduler](optimizer)

    def go(optimizer: torch.optim.Optimizer, schedule: LRScheduler, steps: int) -> list[Tensor]:
        for _ in range(steps):
            step(optimizer)
            schedule.step()
        return [p for group in optimizer.param_groups for p in group["params"]]

    first, second = made(), made()
    weights = go(*first, 5)
    with torch.no_grad():
        for p, kept in zip((p for group in second[0].param_groups for p in group["params"]), weights, strict=True):
            p.copy_(kept)
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    for a, e in zip(go(*second, 4), go(*first, 4), strict=True):
        assert torch.equal(a, e)
    assert numbers(first[0]) == numbers(second[0])


def test_a_rate_in_a_tensor_is_written_in_place() -> None:
    rate = torch.tensor(0.5)
    p = torch.zeros(1, requires_grad=True)
    optimizer = stepwell.SGD([p], lr=rate)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    for expected in (-0.5, -0.75, -0.875):
        p.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        assert p.item() == expected
    assert optimizer.param_groups[0]["lr"] is rate
