"""16-bit weights on parts, and state in fewer bits: the same bits on 1, 2 and 4 ranks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import stepwell
from layout.ranks import on_ranks
from layout.trainings import whole
from stepwell import layout, rules
from stepwell.codecs import WEIGHTS, say_converted, weights_codec

STORAGES: list[dict[str, Any]] = [
    {"state_dtype": "bfloat16", "master": "stochastic"},
    {"state_dtype": "8bit", "master": "kahan"},
    {"state_dtype": "4bit", "master": "compensated"},
    {"state_dtype": "bfloat16", "master": "compensated8"},
    {"state_dtype": "float32", "master": "float32"},
]
# Parts of 64 × 96 numbers on 2 and 4 ranks begin where a block of 256 does; 10 × 3 are too few for blocks.
SHAPES = [(64, 96), (10, 3)]
STEPS = 3
# Their moments travel to one rank and come back as the update, in the dtype of the weights.
RULES_OF_MATRICES = [rules.Muon(lr=0.01, weight_decay=0.1), rules.Scion(lr=0.01, weight_decay=0.1, scale=2.0)]


def weights(way: str) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=generator).bfloat16() for shape in SHAPES]
    if way != "fsdp":
        return [nn.Parameter(weight) for weight in plain]
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return [nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)])) for weight in plain]


def go(parameters: list[nn.Parameter], optimizer: stepwell.Optimizer, first: int = 0) -> None:
    for step in range(first, first + STEPS):
        generator = torch.Generator().manual_seed(1 + step)
        for p in parameters:
            gradient = torch.randn(p.shape, generator=generator).bfloat16()
            cut = layout.layout_of(p)
            p.grad = gradient if cut is None else cut.tensor(cut.part(gradient))
        optimizer.step()


def made(way: str, engine: Any, storage: dict[str, Any]) -> tuple[list[nn.Parameter], stepwell.Optimizer]:
    parameters = weights(way)
    rule = rules.AdamW(lr=0.01, weight_decay=0.1)
    options = {"engine": engine, "rounding_seed": 3, "shard_state": way == "zero", **storage}
    return parameters, stepwell.Optimizer(parameters, rule, **options)


def outcome(parameters: list[nn.Parameter], optimizer: stepwell.Optimizer) -> list[Any]:
    """Weights, and the numbers that the state holds."""
    state = optimizer.state_dict()["state"]
    found: list[Any] = [whole(p) for p in parameters]
    for number in range(len(parameters)):
        found += [whole(state[number][slot]) for slot in ("exp_avg", "exp_avg_sq")]
    return found


def trained(way: str, engine: Any, storage: dict[str, Any]) -> list[Any]:
    parameters, optimizer = made(way, engine, storage)
    go(parameters, optimizer)
    found = outcome(parameters, optimizer)
    again, resumed = made(way, engine, storage)  # from its state dict, with the same weights
    with torch.no_grad():
        for p, before in zip(again, parameters, strict=True):
            p.copy_(before)
    resumed.load_state_dict(optimizer.state_dict())
    go(parameters, optimizer, STEPS)
    go(again, resumed, STEPS)
    for p, q in zip(parameters, again, strict=True):
        assert torch.equal(whole(p), whole(q)), f"{way} {engine} {storage}: resumed otherwise"
    return found


def all_trained(ways: list[str], engine: Any) -> list[list[Any]]:
    return [trained(way, engine, storage) for storage in STORAGES for way in ways]


def compare(ranks: int, engine: str) -> None:
    """One rank of a group of one has the same parts as whole tensors have."""
    (expected,) = on_ranks(all_trained, 1, ["fsdp"], engine)
    alone = [trained("one", engine, storage) for storage in STORAGES]
    for result in on_ranks(all_trained, ranks, ["zero", "fsdp"], engine):
        for place, storage in enumerate(STORAGES):
            for found in result[2 * place : 2 * place + 2]:
                for a, b in zip(found, expected[place], strict=True):
                    assert torch.equal(a, b), f"{storage} on {ranks} ranks, {engine}"
                for a, b in zip(found[: len(SHAPES)], alone[place][: len(SHAPES)], strict=True):
                    assert isinstance(a, Tensor)
                    assert torch.equal(a, b), f"{storage} on {ranks} ranks beside one process, {engine}"


def test_two_ranks_without_a_compiler() -> None:
    compare(2, "foreach")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_kernels_on_ranks(ranks: int) -> None:
    compare(ranks, "fused")


MASTERS = [("kahan", "float32"), ("compensated", "kahan"), ("compensated8", "compensated"), ("float32", None)]


def under_another_master(ways: list[str]) -> list[tuple[str, list[Tensor], int]]:
    """Weights, in all their bits, after another master was chosen, and how often the log has said so."""
    found = []
    for way in ways:
        say_converted.cache_clear()
        numbers = []
        for before, after in MASTERS:
            (p, _), optimizer = made(way, "foreach", {"master": before, "state_dtype": "float32"})
            go([p], optimizer)
            optimizer.param_groups[0] |= {"master": after, "lr": 0.0}
            go([p], optimizer, STEPS)
            state = {name: layout.same_layout(x, None) for name, x in optimizer.state[p].items() if name != "step"}
            codec = weights_codec(p.dtype, state, SHAPES[0])
            beside = [state[name] for name in codec.names(WEIGHTS)[1:]]
            numbers.append(codec.load([whole(p), *beside], SHAPES[0]).clone())
        found.append((way, numbers, say_converted.cache_info().currsize))
    return found


def test_another_master_takes_over_what_is_beside_the_weights() -> None:
    ((_, alone, said),) = under_another_master(["one"])
    assert said == len(MASTERS)
    for result in on_ranks(under_another_master, 2, ["zero", "fsdp"]):
        for way, found, said_there in result:
            assert said_there == said, way
            for expected, number, pair in zip(alone, found, MASTERS, strict=True):
                assert torch.equal(number, expected), f"{pair} under {way}"


def updated(ways: list[str]) -> list[tuple[str, str, list[Tensor]]]:
    """Weights after some steps of the rules of matrices."""
    found = []
    for rule in RULES_OF_MATRICES:
        for way in ways:
            parameters = weights(way)
            go(parameters, stepwell.Optimizer(parameters, rule, shard_state=way == "zero"))
            found.append((type(rule).__name__, way, [whole(p) for p in parameters]))
    return found


def test_matrices_of_16_bits() -> None:
    alone = {rule: found for rule, _, found in updated(["one"])}
    for result in on_ranks(updated, 2, ["zero", "fsdp"]):
        for rule, way, found in result:
            for a, b, before in zip(found, alone[rule], weights("one"), strict=True):
                assert torch.equal(a, b), f"{rule} under {way}"
                assert not torch.equal(a, before)


ORDERS: list[Any] = [torch.contiguous_format, torch.channels_last]


def kernel(order: Any, way: str) -> tuple[nn.Parameter, stepwell.Optimizer]:
    """The weights of a convolution, in this order in memory, with a float32 beside each."""
    whole = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16().to(memory_format=order)
    if way == "fsdp":
        whole = distribute_tensor(whole, init_device_mesh("cpu", (dist.get_world_size(),)), [Shard(0)])
    p = nn.Parameter(whole)
    return p, stepwell.AdamW([p], lr=0.1, master="float32", shard_state=way == "zero")


def resumed_in_another_order(way: str) -> list[tuple[Tensor, Tensor, bool]]:
    """Weights of a training that goes on from whole state, those of the training that this state is from, and whether
    slots lie in memory as weights do."""
    found = []
    for before, after in itertools.product(ORDERS, ORDERS):
        (p, optimizer), (q, resumed) = kernel(before, "one"), kernel(after, way)
        go([p], optimizer)
        with torch.no_grad():
            q.copy_(p if way != "fsdp" else distribute_tensor(p.detach(), q.device_mesh, q.placements))
        resumed.load_state_dict(optimizer.state_dict())
        go([p], optimizer, STEPS)
        go([q], resumed, STEPS)
        part = layout.held(q.detach(), resumed._buckets.layout_of(q))
        slots = [layout.local(resumed.state[q][name]) for name in ("exp_avg", "exp_avg_sq", "weight_master")]
        found.append((whole(p), whole(q), all(slot.stride() == part.stride() for slot in slots)))
    return found


def test_whole_state_takes_the_order_of_its_parts_in_memory() -> None:
    """Kernels pair elements by their place in memory; contiguous state loads into channels_last weights, and back."""
    for way in ("zero", "fsdp"):
        for result in on_ranks(resumed_in_another_order, 2, way):
            for expected, found, together in result:
                assert together, way
                torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-6)
