"""How the slots of a parameter that lies on many ranks lie there, and which rules can work on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepwell.codecs import AS_IT_IS, Codec, Storage
from stepwell.layout.parts import Layout
from stepwell.rules.rule import Rule, Slot
from stepwell.text.values import shown

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def state_mesh(asked: bool | DeviceMesh) -> DeviceMesh | None:
    """The ranks that share state: those of a mesh, or all; None for False.

    Raises:
        RuntimeError: torch.distributed has not been started.
        ValueError: the mesh has several dimensions.
    """
    if isinstance(asked, bool) and not asked:
        return None
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError("shard_state needs ranks: call torch.distributed.init_process_group() first")
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

    if isinstance(asked, DeviceMesh):
        if asked.ndim != 1:
            raise ValueError(
                f"shard_state must be a mesh of one dimension, got {asked.ndim}; mesh['name'] is one of its dimensions"
            )
        return asked
    if asked is not True:
        raise TypeError(f"shard_state must be True, False or a DeviceMesh, got {shown(asked)}")
    kind = "cuda" if "nccl" in torch.distributed.get_backend_config() else "cpu"
    return init_device_mesh(kind, (torch.distributed.get_world_size(),))


def shared_state(parameter: Tensor, mesh: DeviceMesh) -> Layout | None:
    """How the state of a parameter that every rank of the mesh has whole is shared out: by its first dimension. None
    for a single number, whose state every rank keeps."""
    from torch.distributed.tensor import Shard

    return Layout(mesh, (Shard(0),), tuple(parameter.shape)) if parameter.ndim else None


def slot_layout(rule: Rule, slot: Slot, layout: Layout) -> Layout:
    """The layout of one of the rule's slots, of a parameter in this layout."""
    return layout.of_slot(rule.slot_shape(slot, layout.shape), anyhow=rule.acts_on == "matrices")


def check_cut(rule: Rule, layout: Layout, name: str, where: str) -> None:
    """Raise ValueError where the rule, fitted to the parameter, cannot work on its parts."""
    for placement in layout.placements:
        if placement.is_partial():
            raise ValueError(
                f"parameter {name} is a sum that the ranks have not added up{where}; call redistribute() on it first"
            )
    if rule.acts_on != "tensors":
        return
    seen_as = rule.working_shape(layout.shape)
    first = -len(layout.shape)
    if seen_as == layout.shape or (seen_as[0] == layout.shape[0] and all(dim == first for _, dim in layout.cuts)):
        return
    if layout.cuts:
        dims = ", ".join(str(dim + len(layout.shape)) for _, dim in layout.cuts)
        raise ValueError(
            f"parameter {name} of shape {layout.shape} is cut over ranks along dimension {dims}, and "
            f"{type(rule).__name__} sees it as {seen_as}, which joins that with others{where}; leave this parameter "
            "whole, or give it a rule that acts on elements, such as 'AdamW'"
        )


def check_stored(
    rule: Rule, layout: Layout, storage: Storage, codecs: Mapping[str, Codec], name: str, where: str
) -> None:
    """Raise ValueError where the parts of a parameter cannot be stored as its group asks, by these codecs."""
    if storage == AS_IT_IS or not layout.cuts:
        return
    if rule.acts_on != "elements":
        raise ValueError(
            f"parameter {name} lies on many ranks, where {type(rule).__name__}, which acts on {rule.acts_on}, stores "
            f"state and weights as they are; take state_dtype=None and master=None{where}"
        )
    if not layout.in_runs and any(codec.draws for codec in codecs.values()):
        dims = ", ".join(str(dim + len(layout.shape)) for _, dim in layout.cuts)
        raise ValueError(
            f"parameter {name} of shape {layout.shape} is cut over ranks along dimension {dims}, and random bits are "
            "counted along runs of elements, which only dimension 0 leaves; take state_dtype=None or 'float32', and "
            f"any master but 'stochastic'{where}"
        )
