"""The names of parameters whose state was saved by number.

All packages go through the model's parameters in their order and put each into one of a few groups; which group, they
decide each in its own way. Those ways are tried, and the one that fits in number and in every shape is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.migrating.source import SavedGroup, Source
from stepwell.checkpoint.names import bare, plain_name

Names = list[list[str]]

# What transformers' Trainer does not decay, beside what is in a LayerNorm (5.x, and before).
_UNDECAYED = (re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)"), re.compile("bias"))


def name_parameters(source: Source, model: nn.Module | None, names: Sequence[Sequence[str]] | None) -> None:
    """Give the source's groups the names that they lack.

    Args:
        source: what is to be migrated.
        model: the model that it was saved from.
        names: the names of each group's parameters, where no known way of grouping them fits.

    Raises:
        CheckpointError: there is no model, or no way fits, or several do.
    """
    if names is not None:
        given = [list(those) for those in names]
        if [len(those) for those in given] != [len(group.states) for group in source.groups]:
            counts = ", ".join(str(len(group.states)) for group in source.groups)
            raise CheckpointError(f"names must be a list for each of the groups of {source.title}, of {counts} names")
        ways = [given]
    elif all(group.names is not None for group in source.groups):
        return
    elif model is None:
        raise CheckpointError(
            f"{source.title} has its optimizer's state by number, not by name: give the model that it was saved from"
        )
    else:
        shapes = {plain_name(name): p for name, p in bare(model).named_parameters()}
        ways = []
        for way in _ways(bare(model)):
            if way not in ways and _fits(way, source.groups, shapes):
                ways.append(way)
    if not ways:
        raise CheckpointError(
            f"{source.title} has its optimizer's state by number, and the model's parameters, grouped as torch, "
            "transformers or timm group them, do not have its shapes; give names=, the names of each group in order"
        )
    if len(ways) > 1:
        raise CheckpointError(
            f"{source.title} has its optimizer's state by number, and it fits the model's parameters in "
            f"{len(ways)} ways; give names=, the names of each group in order"
        )
    for group, those in zip(source.groups, ways[0], strict=True):
        group.names = [plain_name(name) for name in those]


def _ways(model: nn.Module) -> Iterator[Names]:
    """How parameters are grouped: as torch, transformers and timm do, all of them or those that are not frozen."""
    for parameters in (
        dict(model.named_parameters()),
        {name: p for name, p in model.named_parameters() if p.requires_grad},
    ):
        yield [list(parameters)]
        for pattern in _UNDECAYED:
            inside = _inside_layer_norms(model)
            decayed = [name for name in parameters if name not in inside and not pattern.search(name.lower())]
            yield [decayed, [name for name in parameters if name not in set(decayed)]]
        spared = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
        undecayed = [name for name, p in parameters.items() if p.ndim <= 1 or name.endswith(".bias") or name in spared]
        yield [undecayed, [name for name in parameters if name not in set(undecayed)]]


def _inside_layer_norms(model: nn.Module) -> set[str]:
    modules = [(name, module) for name, module in model.named_modules() if name and isinstance(module, nn.LayerNorm)]
    return {f"{prefix}.{name}" for prefix, module in modules for name, _ in module.named_parameters()}


def _fits(way: Names, groups: Sequence[SavedGroup], parameters: dict[str, nn.Parameter]) -> bool:
    """Whether the groups have these numbers of parameters, and every slot could be of its parameter."""
    if [len(those) for those in way] != [len(group.states) for group in groups]:
        return False
    return all(
        _could_be(parameters[name], state)
        for those, group in zip(way, groups, strict=True)
        for name, state in zip(those, group.states, strict=True)
    )


def _could_be(p: Tensor, state: dict[str, object]) -> bool:
    """Whether slots of as many dimensions as the parameter have its shape, or that of its rows or columns, where there
    is one at all; those of rows and columns may lack the other dimension."""
    slots = [slot for slot in state.values() if isinstance(slot, Tensor) and slot.ndim]
    same = [slot for slot in slots if slot.ndim == p.ndim]
    sums = [
        slot for slot in slots if slot.shape in (p.shape[:-1], (*p.shape[:-2], *p.shape[-1:])) and slot.ndim < p.ndim
    ]
    fits = all(ours in (theirs, 1) for slot in same for ours, theirs in zip(slot.shape, p.shape, strict=True))
    return fits and (bool(same or sums) or not state or not p.ndim)
