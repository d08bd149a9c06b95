"""A training on some ranks, saved by `torch.distributed.checkpoint`, goes on on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import stepwell
from layout.ranks import on_ranks
from layout.test_many_ranks import check, tolerance
from layout.trainings import RULES, STEPS, go, net, optimizer_for, outcome, spread, whole
from stepwell import rules
from stepwell.codecs.converting import joined
from stepwell.layout import layout_of

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


def of_eight_bits(way: str, storage: str | None) -> tuple[nn.Module, stepwell.Optimizer]:
    """A layer whose moments are many enough for blocks, after a step."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 96, bias=False)
    if way == "fsdp":
        fully_shard(layer)
    model = DistributedDataParallel(layer) if way == "ddp" else layer
    optimizer = stepwell.AdamW(model.parameters(), lr=0.01, state_dtype=storage)
    model(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def moments(optimizer: stepwell.Optimizer) -> list[Tensor]:
    (slots,) = optimizer.state_dict()["state"].values()
    found = slots if layout_of(slots["exp_avg"]) is not None else joined(rules.AdamW(), slots, (96, 64))
    return [whole(found[name]) for name in ("exp_avg", "exp_avg_sq")]


def taken_over(folder: str) -> dict[str, Any]:
    """What comes of state in 8 bits that is saved whole, or in parts, where it is loaded the other way."""
    found: dict[str, Any] = {}
    for way in ("ddp", "fsdp"):
        model, optimizer = of_eight_bits(way, "8bit")
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{way}")
        found[way] = moments(optimizer)
        if way == "ddp":
            content = optimizer.state_dict()
    for storage in ("8bit", "bfloat16", None):
        model, optimizer = of_eight_bits("fsdp", storage)
        try:
            load(model, optimizer, f"{folder}/ddp")
        except ValueError as error:
            found[f"refused as {storage}"] = str(error)
        optimizer.load_state_dict(content)
        found[f"blocks as {storage}"] = moments(optimizer)
    model, optimizer = of_eight_bits("ddp", "float32")
    load(model, optimizer, f"{folder}/fsdp")
    found["numbers"] = moments(optimizer)
    optimizer.param_groups[0]["state_dtype"] = "8bit"
    optimizer.step()
    found["dtype"] = optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"].dtype
    return found


def test_codes_of_eight_bits_are_never_taken_for_numbers(tmp_path: Path) -> None:
    """torch.distributed.checkpoint looks at shapes only; whole blocks and numbers go from any layout to any other."""
    for found in on_ranks(taken_over, 2, str(tmp_path)):
        for storage in ("8bit", "bfloat16", None):
            assert found.get(f"refused as {storage}") == (
                "the saved slot 'exp_avg' of parameter 0 of group 0 holds codes of 8 bits, read as numbers by "
                "torch.distributed.checkpoint; load that file where state is whole and state_dtype='8bit', as it was "
                "saved, and bring optimizer.state_dict() from there by torch.save"
            )
            torch.testing.assert_close(found[f"blocks as {storage}"], found["ddp"], rtol=0, atol=0)
        torch.testing.assert_close(found["numbers"], found["fsdp"], rtol=0, atol=0)
        assert found["dtype"] == torch.uint8


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
