"""A training on some ranks, saved by `torch.distributed.checkpoint`, goes on on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import stepwell
from layout.ranks import on_ranks
from layout.test_many_ranks import check, tolerance
from layout.trainings import RULES, STEPS, go, net, optimizer_for, outcome, spread

SOME = ["AdamW", "Adafactor", "Muon", "ScheduleFreeAdamW"]


def made(rule: str, way: str) -> tuple[nn.Module, stepwell.Optimizer]:
    model = spread(net(torch.float64), way)
    return model, optimizer_for(model, RULES[rule], clip_norm=0.5, shard_state=way == "zero")


def load(model: nn.Module, optimizer: stepwell.Optimizer, folder: str) -> None:
    weights, state = get_state_dict(model, optimizer)
    held = {"model": weights, "optimizer": state}
    dcp.load(held, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=held["model"], optim_state_dict=held["optimizer"])


def part(rules: list[str], way: str, first: int, source: str, target: str) -> dict[str, dict[str, Any]]:
    """Some steps of each training, from what an earlier part has left to what a later part finds."""
    found = {}
    for rule in rules:
        model, optimizer = made(rule, way)
        if first:
            load(model, optimizer, f"{source}/{rule}")
        go(model, optimizer, way, first=first)
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{target}/{rule}")
        found[rule] = outcome(model, optimizer)
    return found


def chain(tmp_path: Path, rules: list[str], parts: list[tuple[int, str]]) -> None:
    expected = {}
    for rule in rules:
        model, optimizer = made(rule, "one")
        go(model, optimizer, "one", steps=STEPS * len(parts))
        expected[rule] = outcome(model, optimizer)
    for number, (ranks, way) in enumerate(parts):
        folders = [str(tmp_path / str(each)) for each in (number - 1, number)]
        results = on_ranks(part, ranks, rules, way, number * STEPS, *folders)
    for result in results:
        for rule, found in result.items():
            check(found, expected[rule], tolerance(rule, torch.float64), f"{rule} on {parts}")


def test_saved_on_two_resumed_on_one(tmp_path: Path) -> None:
    chain(tmp_path, ["AdamW", "Muon"], [(2, "fsdp"), (1, "fsdp")])


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        [(4, "fsdp"), (2, "fsdp"), (1, "ddp")],
        [(4, "hsdp"), (2, "tp"), (2, "zero")],
        [(4, "zero"), (2, "zero"), (1, "zero")],
        [(4, "fsdp + tp"), (2, "fsdp"), (1, "fsdp")],
    ],
    ids=lambda parts: ", ".join(f"{ranks} {way}" for ranks, way in parts),
)
def test_saved_on_four_resumed_on_two_then_on_one(tmp_path: Path, parts: list[tuple[int, str]]) -> None:
    chain(tmp_path, SOME, parts)
