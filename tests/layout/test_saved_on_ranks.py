"""A training on some ranks, saved by `torch.distributed.checkpoint`, goes on on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import stepwell
from layout.ranks import on_ranks
from layout.test_many_ranks import check, tolerance
from layout.trainings import RULES, STEPS, go, net, optimizer_for, outcome, spread, whole
from stepwell import rules
from stepwell.codecs.converting import joined
from stepwell.layout import layout_of, local, same_layout

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


def shared(weight: Tensor | None = None, **options: Any) -> tuple[nn.Parameter, stepwell.Optimizer]:
    """A matrix whose rows two ranks share unequally, or which lies as the weight does."""
    if weight is None:
        weight = torch.randn(65, 64, generator=torch.Generator().manual_seed(0))
    p = nn.Parameter(weight.detach().clone())
    return p, stepwell.AdamW([p], lr=0.1, engine="foreach", **options)


def step(p: nn.Parameter, optimizer: stepwell.Optimizer) -> None:
    gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p.dtype)
    p.grad = same_layout(gradient, layout_of(p.detach()))
    optimizer.step()


def refusal(p: nn.Parameter, optimizer: stepwell.Optimizer, content: Any = None) -> str:
    """What a load, or a step, says that cannot be."""
    with pytest.raises(ValueError) as error:
        step(p, optimizer) if content is None else optimizer.load_state_dict(content)
    return str(error.value)


def parts_elsewhere(folder: str) -> dict[str, Any]:
    """What comes of state in parts where state is whole, and of a part on another rank than its own."""
    found: dict[str, Any] = {}
    p, optimizer = shared(shard_state=True)
    step(p, optimizer)
    q, of_all = shared(p)
    of_all.load_state_dict(optimizer.state_dict())
    found["whole"] = [type(of_all.state[q][slot]) is Tensor for slot in ("exp_avg", "exp_avg_sq")]
    given, of_given = shared(p)
    of_given.load_state_dict(optimizer.state_dict(), copy=False)
    rank = dist.get_rank()
    torch.save(optimizer.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()
    for each, one in ((given, of_given), (q, of_all), (p, optimizer)):  # the first has slots of the last
        step(each, one)
    found["goes on"] = torch.equal(p, q) and torch.equal(p, given)
    others, own = (torch.load(f"{folder}/{each}.pt", weights_only=False) for each in (1 - rank, rank))
    for way, state in (("parts", True), ("whole", False)):
        found[f"another's as {way}"] = refusal(*shared(shard_state=state), others)
    again, resumed = shared(q, shard_state=True)
    resumed.load_state_dict(own)
    slots = resumed.state[again]
    cut = layout_of(slots["exp_avg"])
    assert cut is not None
    slots["exp_avg"] = cut.tensor(local(slots["exp_avg"])[1:])
    found["too small"] = refusal(again, resumed)
    p, optimizer = shared(shard_state=True, state_dtype="8bit", amsgrad=True)
    step(p, optimizer)
    largest = optimizer.state_dict()["state"][0]["max_exp_avg_sq"]
    optimizer.param_groups[0]["amsgrad"] = False
    step(p, optimizer)
    q, resumed = shared(p, shard_state=True, state_dtype="8bit", amsgrad=True)
    resumed.load_state_dict(optimizer.state_dict())
    found["left behind"] = torch.equal(*(local(x) for x in (largest, resumed.state[q]["max_exp_avg_sq"])))
    return found


def test_parts_are_put_together_or_stay_with_their_rank(tmp_path: Path) -> None:
    for rank, found in enumerate(on_ranks(parts_elsewhere, 2, str(tmp_path))):
        assert found["whole"] == [True, True]
        assert found["goes on"]
        for way in ("parts", "whole"):
            assert found[f"another's as {way}"] == (
                f"the saved slot 'exp_avg' of parameter 0 of group 0 is part {1 - rank} of 2, and this rank has part "
                f"{rank} of 2: torch.save writes the parts of its own rank alone; save state in parts with "
                "torch.distributed.checkpoint, or load on each rank what that rank saved"
            )
        rows = 33 - rank
        assert found["too small"] == (
            f"the slot 'exp_avg' has a part of shape ({rows - 1}, 64), and this rank's of (65, 64) is ({rows}, 64) "
            "(group 0)"
        )
        assert found["left behind"]


def remainders(folder: str) -> list[tuple[str, str, bool]]:
    """Whether a training goes on to the bit after what is beside its weights has gone from parts to parts, or whole
    tensors, and back."""
    found = []
    for master in ("compensated", "compensated8"):
        layer = nn.Linear(64, 65, bias=False).bfloat16()
        fully_shard(layer)
        optimizer = stepwell.AdamW(layer.parameters(), lr=0.1, master=master, state_dtype="float32", engine="foreach")
        step(layer.weight, optimizer)
        ways: dict[str, tuple[nn.Parameter, stepwell.Optimizer]] = {}
        weight = whole(layer.weight).detach()
        full = get_optimizer_state_dict(layer, optimizer, options=StateDictOptions(full_state_dict=True))
        found.append((master, "gathered", full["state"]["weight"]["weight_remainder"].shape == (65, 64)))
        mesh = init_device_mesh("cpu", (2,))
        for way, cut in (("whole", weight), ("columns", distribute_tensor(weight, mesh, [Shard(1)]))):
            if way == "columns" and master == "compensated8":
                continue  # random bits are counted along rows
            ways[way] = shared(cut, master=master, state_dtype="float32")
            ways[way][1].load_state_dict(optimizer.state_dict())
        twin = nn.Linear(64, 65, bias=False).bfloat16()
        fully_shard(twin)
        again = stepwell.AdamW(twin.parameters(), lr=0.1, master=master, state_dtype="float32", engine="foreach")
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(twin, again, full, options=options)
        with torch.no_grad():
            twin.weight.copy_(layer.weight)
        ways["full"] = twin.weight, again
        dcp.save({"optimizer": ways["whole"][1].state_dict()["state"]}, checkpoint_id=f"{folder}/{master}")
        p, from_whole = shared(layer.weight, master=master, state_dtype="float32")
        from_whole.load_state_dict(optimizer.state_dict())
        held = from_whole.state_dict()
        held["state"][0]["weight_remainder"].zero_()
        dcp.load({"optimizer": held["state"]}, checkpoint_id=f"{folder}/{master}")
        from_whole.load_state_dict(held)
        ways["file"] = p, from_whole
        step(layer.weight, optimizer)
        for way, (p, one) in ways.items():
            step(p, one)
            state, expected = (each.state[x]["weight_remainder"] for each, x in ((one, p), (optimizer, layer.weight)))
            same = torch.equal(same_layout(state, None), same_layout(expected, None))
            found.append((master, way, same and torch.equal(whole(p), whole(layer.weight))))
    return found


def test_remainders_of_weights_go_from_rank_to_rank(tmp_path: Path) -> None:
    for result in on_ranks(remainders, 2, str(tmp_path)):
        assert len(result) == 9
        for master, way, same in result:
            assert same, f"{master}: {way}"


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
