"""What a plan says that ranks send is what they send."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import stepwell
from layout.ranks import on_ranks
from layout.trainings import net, spread
from stepwell import Recipe, Route
from stepwell.planning.traffic import Traffic
from stepwell.rules.registry import rule_class

RULES = ["AdamW", "Muon", "SOAP", "LAMB", "Adafactor", "CAME", "Prodigy"]
# How a plan is asked about each way of lying on ranks.
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero": {"sharded": "state"},
    "fsdp": {"sharded": True},
    "hsdp": {"sharded": True, "replicas": 2},
}

Sent = list[tuple[str, int, float, float]]
"""Collectives in their order: the name, over how many ranks, bytes sent and bytes got."""


class Collectives(TorchDispatchMode):
    """Notes every collective that is called, with the bytes that this rank sends and gets on a ring."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: Sent = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            ranks, sent, got = _ring(function.__name__.partition(".")[0], args)
            if ranks > 1:
                self.sent.append((function.__name__.partition(".")[0], ranks, sent, got))
        return function(*args, **(kwargs or {}))


def _ring(name: str, args: Any) -> tuple[int, float, float]:
    """The number of ranks of a collective, and what one sends and gets."""
    group = next(dist.ProcessGroup.unbox(arg) for arg in args if isinstance(arg, torch.ScriptObject))
    ranks = group.size()
    if name == "allreduce_":
        size = 2 * (ranks - 1) / ranks * sum(tensor.nbytes for tensor in args[0])
    elif name == "_allgather_base_":
        size = (ranks - 1) * args[1].nbytes
    elif name == "allgather_":
        size = (ranks - 1) * sum(tensor.nbytes for tensor in args[1])
    elif name == "_reduce_scatter_base_":
        size = (ranks - 1) * args[0].nbytes
    elif name == "alltoall_base_":
        out, inward = args[4], args[3]
        width = args[1].element_size()
        return ranks, width * (sum(out) - out[group.rank()]), width * (sum(inward) - inward[group.rank()])
    else:
        size = math.nan  # no formula is for this
    return ranks, size, size


def recipe_of(rule: str) -> Recipe:
    if rule_class(rule).acts_on != "matrices":
        return Recipe(routes=Route(rule=rule), clip_norm=1.0)
    routes = (Route(rule=rule, select="role('hidden matrix')"), Route(rule="AdamW", name="rest"))
    return Recipe(routes=routes)


def one_step(rule: str, way: str) -> tuple[Sent, Sent]:
    """What is sent to train, and by the optimizer, in the third step: DDP sorts its buckets anew in the second."""
    model = spread(net(), way)
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer = stepwell.plan(inner, recipe_of(rule)).build_optimizer(shard_state=way == "zero")
    for _ in range(3):
        with Collectives() as training:
            model(torch.ones(2, 5)).square().mean().backward()
        with Collectives() as own:
            optimizer.step()
    return training.sent, own.sent


def all_steps(rules: list[str], ways: list[str]) -> dict[tuple[str, str], tuple[Sent, Sent]]:
    return {(rule, way): one_step(rule, way) for way in ways for rule in rules}


def busiest(of_ranks: list[Sent]) -> Counter[str]:
    """Bytes of the busiest rank, collective by collective, added up by kind."""
    found: Counter[str] = Counter()
    for calls in zip(*of_ranks, strict=True):
        (name,) = {call[0] for call in calls}
        sent, got = (max(column) for column in list(zip(*calls, strict=True))[2:])
        found[f"{KINDS[name]} over {calls[0][1]}"] += round(max(sent, got))
    return found


KINDS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "alltoall_base_": "all-to-all",
}


def planned(traffic: Traffic, of: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for message in traffic.messages:
        if message.of == of:
            found[message.how] += message.bytes
    return found


def compare(ranks: int, rules: list[str], ways: list[str]) -> None:
    results = on_ranks(all_steps, ranks, rules, ways)
    for way in ways:
        for rule in rules:
            traffic = stepwell.plan(net(), recipe_of(rule)).traffic(world_size=ranks, **WAYS[way])
            for which, of in enumerate(("training", "optimizer")):
                sent = busiest([result[rule, way][which] for result in results])
                assert planned(traffic, of) == sent, f"{rule} under {way} on {ranks} ranks, {of}"


def test_on_two_ranks() -> None:
    compare(2, ["AdamW", "Muon", "LAMB"], ["ddp", "zero", "fsdp"])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_kind_of_rule(ranks: int) -> None:
    compare(ranks, RULES, ["ddp", "zero", "fsdp", *(["hsdp"] if ranks == 4 else [])])
