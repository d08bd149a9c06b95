"""A gradient that only some ranks have stops all of them, with an error that names it, before anything has changed."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import stepwell
from layout.ranks import on_ranks
from layout.trainings import RULES, net, optimizer_for, outcome, spread
from stepwell.optimizer.gradients import gradient_norms

SOME = {name: RULES[name] for name in ("AdamW", "LAMB", "Prodigy", "Muon")} | {"SAM": stepwell.sam(RULES["AdamW"])}


def gradients(model: nn.Module, step: int) -> None:
    """The same on all ranks, in parts where the weights are."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        whole = torch.randn(p.shape, generator=generator)
        layout = stepwell.layout.layout_of(p)
        p.grad = whole if layout is None else layout.tensor(layout.part(whole))


def made(rule: str, way: str) -> tuple[nn.Module, stepwell.Optimizer]:
    model = spread(net(), way)
    model = model.module if isinstance(model, DistributedDataParallel) else model
    # Without a compiler: what is asked here comes before any engine.
    return model, optimizer_for(model, SOME[rule], clip_norm=1.0, shard_state=way == "zero", engine="foreach")


def one_without(rule: str, way: str) -> tuple[str, bool]:
    """The error where the last rank lacks two gradients, and whether the weights are as they were."""
    model, optimizer = made(rule, way)
    optimizer.step(lambda: gradients(model, 0))
    before = outcome(model, optimizer)

    def closure() -> None:
        gradients(model, 1)
        if dist.get_rank() == dist.get_world_size() - 1:
            model.get_parameter("second.weight").grad = None
            model.get_parameter("norm.bias").grad = None

    try:
        optimizer.step(closure)
    except RuntimeError as error:
        after = outcome(model, optimizer)
        return str(error), all(_same(after[name], value) for name, value in before.items())
    return "", False


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def all_without(rules: list[str], ways: list[str]) -> dict[tuple[str, str], tuple[str, bool]]:
    return {(rule, way): one_without(rule, way) for way in ways for rule in rules}


def test_a_gradient_that_one_rank_lacks_is_an_error_on_all() -> None:
    expected = (
        "parameter 'second.weight' (and 1 more) has a gradient on ranks 0 and none on ranks 1; no weight has changed. "
        "All ranks have to take the same step: let the loss of each use it, or set its grad to zeros where it has none"
    )
    for result in on_ranks(all_without, 2, list(SOME), ["zero", "fsdp", "tp"]):
        for (rule, way), (message, untouched) in result.items():
            assert (message, untouched) == (expected, True), f"{rule} under {way}"


def scaled(way: str) -> tuple[int, bool]:
    """Steps left out, and whether weights have stayed, where the scaler of the first rank alone has found infinity."""
    model, optimizer = made("AdamW", way)
    gradients(model, 0)
    before = [p.detach().clone() for p in model.parameters()]
    found: Any = optimizer
    found.grad_scale, found.found_inf = torch.tensor(1.0), torch.tensor(float(dist.get_rank() == 0))
    optimizer.step()
    return optimizer.skipped, all(map(_same, before, model.parameters()))


def copied(way: str) -> bool:
    """Whether a copy, and an unpickled one, go on as the optimizer itself does."""
    model, optimizer = made("AdamW", way)
    gradients(model, 0)
    optimizer.step()
    pair = {"model": model, "optimizer": optimizer}
    stored = io.BytesIO()
    torch.save(pair, stored)
    stored.seek(0)
    results = []
    for each in (pair, copy.deepcopy(pair), torch.load(stored, weights_only=False)):
        gradients(each["model"], 1)
        each["optimizer"].step()
        results.append(outcome(each["model"], each["optimizer"]))
        slot = each["optimizer"].state[each["model"].get_parameter("first.weight")]["exp_avg"]
        if slot.to_local().shape == slot.shape:
            return False  # every rank has all of it
    return all(_same(one[name], value) for one in results[1:] for name, value in results[0].items())


def enormous() -> float:
    """The norm of a gradient of which one rank has a number whose square is beyond float64."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    weight = nn.Parameter(distribute_tensor(torch.zeros(4, dtype=torch.float64), mesh, [Shard(0)]))
    gradient = torch.zeros(4, dtype=torch.float64)
    gradient[3] = 1e200
    weight.grad = distribute_tensor(gradient, mesh, [Shard(0)])
    return gradient_norms([weight], with_kernel=False)[id(weight)]


def test_a_norm_beyond_float64_is_infinite_on_all_ranks() -> None:
    assert on_ranks(enormous, 2) == [math.inf, math.inf]


def scaled_and_copied() -> tuple[list[tuple[int, bool]], bool]:
    return [scaled(way) for way in ("zero", "fsdp")], copied("zero")


def test_scaler_and_copies() -> None:
    for steps_left_out, goes_on in on_ranks(scaled_and_copied, 2):
        assert steps_left_out == [(1, True), (1, True)]
        assert goes_on
