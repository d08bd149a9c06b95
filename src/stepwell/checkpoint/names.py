"""The names under which a checkpoint knows parameters: those that they have in the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from stepwell.checkpoint.errors import CheckpointError

EXTRA_STATE = "_extra_state"  # the end of the name under which a state dict holds what a module keeps beside tensors
_COMPILED = "_orig_mod"
WRAPPED = "module."  # what DDP and DataParallel put before every name


def bare(model: nn.Module) -> nn.Module:
    """The model without what only runs it: DDP, DataParallel, torch.compile."""
    inner: Any = model
    while isinstance(inner, (DataParallel, DistributedDataParallel)) or hasattr(inner, _COMPILED):
        inner = getattr(inner, _COMPILED) if hasattr(inner, _COMPILED) else inner.module
    assert isinstance(inner, nn.Module)
    return inner


def plain_name(name: str) -> str:
    """A parameter's name without the steps that torch.compile puts into it."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def parameter_names(optimizer: Optimizer, model: nn.Module | None) -> list[list[str]]:
    """For each group of the optimizer the names of its parameters.

    They are the model's where it has all of them (a tied one has its first name), else those that the groups carry.

    Raises:
        CheckpointError: neither names them all, or two have one name.
    """
    groups = optimizer.param_groups
    known = {} if model is None else {id(p): plain_name(name) for name, p in bare(model).named_parameters()}
    found: list[list[str]] = []
    for index, group in enumerate(groups):
        if all(id(p) in known for p in group["params"]):
            found.append([known[id(p)] for p in group["params"]])
        elif group.get("param_names"):
            found.append([plain_name(name) for name in group["param_names"]])
        elif model is None:
            raise CheckpointError(
                f"the optimizer does not know the names of its parameters (group {group.get('name', index)!r}): give "
                "model= too, or make the optimizer from model.named_parameters()"
            )
        else:
            position = next(position for position, p in enumerate(group["params"]) if id(p) not in known)
            raise CheckpointError(
                f"parameter {position} of the optimizer's group {group.get('name', index)!r}, of shape "
                f"{tuple(group['params'][position].shape)}, is not in the model that was given"
            )
    seen: set[str] = set()
    for name in (name for names in found for name in names):
        if name in seen:
            raise CheckpointError(
                f"two parameters of the optimizer are called {name!r}; a checkpoint tells them by name"
            )
        seen.add(name)
    return found


def as_saved(names: list[list[str]], saved: Collection[str]) -> list[list[str]]:
    """An optimizer's names as they were saved, where one side has them from a wrapped model and the other has not.

    Only all of them together tell: a model may have a layer that is called "module".
    """
    here = all(name.startswith(WRAPPED) for those in names for name in those)
    there = all(name.startswith(WRAPPED) for name in saved)
    if not saved or here == there:
        return names
    return [[name.removeprefix(WRAPPED) if here else WRAPPED + name for name in those] for those in names]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the model's state dict holds, under plain names: parameters and buffers themselves, and extra state."""
    for name, value in bare(model).state_dict(keep_vars=True).items():
        yield plain_name(name), value
