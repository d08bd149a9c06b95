"""One small training, on one rank or on many: the same weights, and the same batch in all, whatever the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import stepwell
from layout.ranks import device_type
from stepwell import rules
from stepwell.rules import Rule

SAMPLES, STEPS = 8, 3

# Every kind of rule: on elements, with reductions over all, over rows and columns, over all parameters, on matrices.
RULES: dict[str, Rule] = {
    "AdamW": rules.AdamW(lr=0.01, weight_decay=0.1),
    "Lion": rules.Lion(lr=0.003),
    "LAMB": rules.LAMB(lr=0.01, weight_decay=0.1),
    "Adafactor": rules.Adafactor(lr=0.01),
    "CAME": rules.CAME(lr=0.01),
    "AdamMini": rules.AdamMini(lr=0.01),
    "cautious AdamW": stepwell.cautious(rules.AdamW(lr=0.01)),
    "Prodigy": rules.Prodigy(lr=1.0),
    "ScheduleFreeAdamW": rules.ScheduleFreeAdamW(lr=0.01),
    "Muon": rules.Muon(lr=0.01),
    "Muon, coupled": rules.Muon(lr=0.01, decay="coupled"),
    "cautious Muon": stepwell.cautious(rules.Muon(lr=0.01)),
    "Scion": rules.Scion(lr=0.01, weight_decay=0.1, scale=2.0),
    # Larger sides of these gradients have directions without gradient, in which the basis is anything.
    "SOAP": rules.SOAP(lr=0.01, max_precond_dim=5),
    "Shampoo": rules.Shampoo(lr=0.01),
    "Dion": rules.Dion(lr=0.01, rank_fraction=0.5),
}


class Net(nn.Module):
    """Two layers that tensor parallelism can cut, and sizes that many ranks cannot share equally."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 12)
        self.second = nn.Linear(12, 7)
        self.norm = nn.LayerNorm(7)
        self.last = nn.Linear(7, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.norm(self.second(torch.tanh(self.first(x)))))
        return y


def net(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(0)
    return Net().to(device_type(), dtype)


def spread(model: Net, way: str) -> nn.Module:
    """The model on all ranks: "one", "ddp", "zero", "fsdp", "tp", "fsdp + tp" or "hsdp"."""
    ranks = dist.get_world_size() if way != "one" else 1
    if way in ("ddp", "zero"):
        return DistributedDataParallel(model)
    if way == "fsdp":
        _shard(model, init_device_mesh(device_type(), (ranks,)))
    elif way == "hsdp":
        _shard(model, init_device_mesh(device_type(), (2, ranks // 2), mesh_dim_names=("replicas", "shards")))
    elif way == "tp":
        _cut(model, init_device_mesh(device_type(), (ranks,), mesh_dim_names=("tp",)))
    elif way == "fsdp + tp":
        mesh = init_device_mesh(device_type(), (2, ranks // 2), mesh_dim_names=("dp", "tp"))
        _cut(model, mesh["tp"])
        _shard(model, mesh["dp"])
    return model


def _shard(model: Net, mesh: DeviceMesh) -> None:
    for layer in (model.first, model.second):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # the root too, as a plan counts


def _cut(model: Net, mesh: DeviceMesh) -> None:
    parallelize_module(model, mesh, {"first": ColwiseParallel(), "second": RowwiseParallel()})


def optimizer_for(model: nn.Module, rule: Rule, **options: Any) -> stepwell.Optimizer:
    """The rule, or where it needs matrices, the rule for these and AdamW for the rest."""
    named = [(name.removeprefix("module."), p) for name, p in model.named_parameters()]
    if rule.acts_on != "matrices":
        return stepwell.Optimizer(named, rule, **options)
    matrices = [(name, p) for name, p in named if p.ndim == 2]
    rest = [(name, p) for name, p in named if p.ndim != 2]
    return stepwell.Optimizer([{"params": matrices}, {"params": rest, "rule": rules.AdamW(lr=0.01)}], rule, **options)


def batches(way: str, first: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of each batch. Ranks that cut layers, rather than batches, see all of it."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(SAMPLES, 5, generator=generator), torch.randn(SAMPLES, 3, generator=generator)
        if way in ("one", "tp"):
            share, shares = 0, 1
        elif way == "fsdp + tp":
            share, shares = dist.get_rank() // (dist.get_world_size() // 2), 2
        else:
            share, shares = dist.get_rank(), dist.get_world_size()
        yield x.chunk(shares)[share].to(device_type()), y.chunk(shares)[share].to(device_type())


def go(model: nn.Module, optimizer: torch.optim.Optimizer, way: str, *, first: int = 0, steps: int = STEPS) -> None:
    """Train."""
    dtype = next(model.parameters()).dtype
    for x, y in batches(way, first, steps):
        optimizer.zero_grad()
        (model(x.to(dtype)) - y.to(dtype)).square().mean().backward()
        optimizer.step()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank, in the host's memory."""
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach().cpu().clone()


def outcome(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Whole weights and whole state, by parameter and slot."""
    found: dict[str, Any] = {}
    for name, p in model.named_parameters():
        name = name.removeprefix("module.")
        found[name] = whole(p)
        for slot, value in sorted(optimizer.state[p].items()):
            found[f"{name}/{slot}"] = whole(value) if isinstance(value, Tensor) else value
    return found


def trained(rule: str, way: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a training leaves, and what its last step tells."""
    model = spread(net(dtype), way)
    optimizer = optimizer_for(model, RULES[rule], clip_norm=0.5, shard_state=way == "zero")
    optimizer.observe()
    go(model, optimizer, way)
    assert optimizer.gradient_norm is not None
    readings = optimizer.telemetry(by="parameter")
    told: dict[str, Any] = {
        f"{name}/{what}": value for name, reading in readings.items() for what, value in reading.items()
    }
    for name, units in optimizer.units().items():
        told[f"{name}/units"] = torch.tensor([units.dead, units.exploding, *units.counts])
    return {"norm": optimizer.gradient_norm, **told, **outcome(model, optimizer)}


def all_trained(names: list[str], ways: list[str], dtype: torch.dtype) -> dict[tuple[str, str], dict[str, Any]]:
    """Many trainings in one go: starting processes is what takes long."""
    return {(rule, way): trained(rule, way, dtype) for way in ways for rule in names}
