"""Which part of a tensor this rank holds."""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

Shape = tuple[int, ...]


def _dtensor() -> Any:
    """torch's class of tensors on many ranks, or None: where nobody has imported it there is no such tensor, and it
    takes a second to import."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def _is_distributed(tensor: Tensor) -> bool:
    kind = _dtensor()
    return kind is not None and isinstance(tensor, kind)


@dataclass(frozen=True)
class Layout:
    """How a tensor is cut over the ranks of a mesh.

    Args:
        mesh: the ranks, in one dimension or more.
        placements: for each dimension of the mesh, which dimension of the tensor it cuts, or that it repeats it.
        shape: of the whole tensor.
    """

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shape: Shape

    @property
    def cuts(self) -> tuple[tuple[int, int], ...]:
        """The dimensions of the mesh that cut the tensor, each with the dimension of the tensor, counted from its end:
        -1 is the last."""
        return tuple(
            (index, placement.dim % len(self.shape) - len(self.shape))  # type: ignore[attr-defined]
            for index, placement in enumerate(self.placements)
            if not placement.is_replicate()
        )

    @property
    def groups(self) -> tuple[ProcessGroup, ...]:
        """The groups of ranks over which a sum over the whole tensor goes, one after the other."""
        return tuple(self.mesh.get_group(index) for index, _ in self.cuts)

    @property
    def device(self) -> torch.device:
        """Where messages between its ranks have to lie."""
        return torch.device(self.mesh.device_type)

    def of_slot(self, shape: Shape, *, anyhow: bool) -> Layout:
        """The layout of a slot of this shape, of a parameter that has the present one.

        A dimension that the slot shares with the parameter is cut as there, so that what belongs together lies
        together. `anyhow` says that the slot is only ever used whole: then it may be cut where the parameter is not.
        """
        if shape == self.shape:
            return self
        from torch.distributed.tensor import Replicate, Shard

        placements = list(self.placements)
        for index, dim in self.cuts:
            place = dim + len(self.shape)
            if not (place < len(shape) and shape[place] == self.shape[place]):
                placements[index] = Shard(0) if anyhow and shape and len(self.cuts) == 1 else Replicate()
        return Layout(self.mesh, tuple(placements), shape)

    def tensor(self, part: Tensor) -> DTensor:
        """The tensor on many ranks of which this rank holds `part`."""
        stride = torch.empty(self.shape, device="meta").stride()
        made: DTensor = _dtensor().from_local(
            part, self.mesh, self.placements, run_check=False, shape=torch.Size(self.shape), stride=stride
        )
        return made

    def part(self, whole: Tensor) -> Tensor:
        """The part of a whole tensor, which every rank has, that this rank holds. No rank is asked."""
        from torch.distributed.tensor import Replicate

        everywhere = [Replicate()] * len(self.placements)
        there = _dtensor().from_local(whole, self.mesh, everywhere, run_check=False)
        found: Tensor = there.redistribute(self.mesh, self.placements).to_local()
        return found

    def view(self, whole: Tensor, rank: int | None = None) -> Tensor:
        """The part of a whole tensor that is this rank's to update, or another's, in the tensor's memory. Only
        dimension 0 is cut."""
        if not self.cuts:
            return whole
        (index, _), *_ = self.cuts
        rank = self.mesh.get_local_rank(index) if rank is None else rank
        start, length = piece(self.shape[0], self.mesh.size(index), rank)
        return whole.narrow(0, start, length)

    def whole(self, part: Tensor) -> Tensor:
        """The whole tensor, on every rank, from the parts. All ranks of the mesh take part."""
        return self.tensor(part).full_tensor() if self.cuts else part

    def sums_of_units(self, part: Tensor) -> Tensor:
        """The sums over all dimensions but the first, of the whole tensor and on every rank, from those over this
        rank's part. All ranks of the mesh take part."""
        from torch.distributed.tensor import Partial

        kept, *_ = self.shape
        placements = list(self.placements)
        for index, dim in self.cuts:
            if dim != -len(self.shape):
                placements[index] = Partial()
        return Layout(self.mesh, tuple(placements), (kept,)).tensor(part.to(self.device)).full_tensor()

    def part_shape(self) -> Shape:
        """The shape of the part that this rank holds."""
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, _ = compute_local_shape_and_global_offset(self.shape, self.mesh, self.placements)
        return tuple(shape)

    @property
    def in_runs(self) -> bool:
        """Whether each rank's part is a run of the tensor's elements, in row-major order."""
        return all(dim == -len(self.shape) for _, dim in self.cuts)

    @functools.cached_property
    def origin(self) -> int | None:
        """Where in the tensor, in row-major order, this rank's part begins; None where it is no run of elements."""
        if not self.in_runs:
            return None
        if not self.cuts:
            return 0
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, offset = compute_local_shape_and_global_offset(self.shape, self.mesh, self.placements)
        return math.prod(self.shape[1:]) * offset[0] if 0 not in shape else 0

    def zeros(self, like: Tensor, dtype: torch.dtype) -> DTensor:
        """A tensor of zeros on many ranks, on the device of `like`."""
        return self.tensor(like.new_zeros(self.part_shape(), dtype=dtype))


def piece(size: int, ranks: int, rank: int) -> tuple[int, int]:
    """Where a rank's piece of a dimension of this size begins, and how long it is: as `torch.chunk` cuts."""
    step = -(-size // ranks)
    start = min(size, rank * step)
    return start, min(step, size - start)


def layout_of(tensor: Tensor) -> Layout | None:
    """How the tensor is cut over ranks; None for a plain tensor, which this rank has whole."""
    if not _is_distributed(tensor):
        return None
    cut: Any = tensor
    return Layout(cut.device_mesh, tuple(cut.placements), tuple(tensor.shape))


def local(tensor: Tensor) -> Tensor:
    """The part of the tensor that this rank holds: a plain tensor that shares its memory. A plain one is itself."""
    if not _is_distributed(tensor):
        return tensor
    distributed: Any = tensor
    part: Tensor = distributed.to_local()
    waiting: Any = getattr(part, "wait", None)  # the result of a collective that may still be under way
    return waiting() if waiting is not None else part


def held(tensor: Tensor, layout: Layout | None) -> Tensor:
    """What this rank works on of a parameter in this layout, or of its gradient or slot, as a plain tensor: its part,
    or its share of a tensor that every rank has whole."""
    if layout is None:
        return tensor
    if not _is_distributed(tensor):
        return layout.view(tensor)
    if layout_of(tensor) != layout:  # a gradient that is still to be added up, or lies otherwise
        moved: Any = tensor
        tensor = moved.redistribute(layout.mesh, layout.placements)
    return local(tensor)


def largest_held(tensor: Tensor, layout: Layout | None) -> Tensor:
    """What stands for the parts of all ranks where these have to choose alike: of a tensor that every rank has whole,
    the first rank's share, the largest. Where it has no gaps in memory no other has. Of others, as `held` has it."""
    if layout is None or _is_distributed(tensor):
        return held(tensor, layout)
    return layout.view(tensor, rank=0)


def same_layout(value: Tensor, layout: Layout | None) -> Tensor:
    """The tensor of these numbers, whole or cut otherwise, in this layout; None asks for a plain one."""
    if layout_of(value) == layout:
        return value
    if value.dtype == torch.int16:  # which ranks cannot send each other
        return same_layout(value.to(torch.int32), layout).to(torch.int16)
    distributed: Any = value
    if layout is None:
        whole: Tensor = distributed.full_tensor()
        return whole
    if _is_distributed(value):
        if distributed.device_mesh == layout.mesh:
            moved: Tensor = distributed.redistribute(layout.mesh, layout.placements)
            return moved
        value = distributed.full_tensor()
    return layout.tensor(layout.part(value).clone())


def refuse_flattened(parameter: Tensor, name: str, where: str) -> None:
    """Raise TypeError for a parameter that is a flat piece of several: its matrices, and their norms, are lost."""
    if getattr(parameter, "_fsdp_flattened", False):
        raise TypeError(
            f"parameter {name} is a flattened shard of FullyShardedDataParallel, in which no rule can see a tensor's "
            f"rows, columns or norm{where}; shard the model with torch.distributed.fsdp.fully_shard instead"
        )


def refuse_elsewhere(parameter: Tensor, layout: Layout, name: str, where: str) -> None:
    """Raise ValueError for a parameter that lies on another device than its ranks talk on: torch would bring slots
    there, away from their weights. One on "meta" lies nowhere yet."""
    device, talking = local(parameter).device.type, layout.device.type
    if device not in (talking, "meta"):
        raise ValueError(
            f"parameter {name} lies on {device!r}, and its ranks talk on {talking!r}, where torch would put its "
            f"state{where}; put the two on one device: fully_shard without CPUOffloadPolicy, or shard_state with a "
            f"mesh of device type {device!r}"
        )


def refuse_anothers_part(tensor: Tensor, what: str) -> None:
    """Raise ValueError for a tensor on many ranks that has another rank's part here, as where one rank has called
    `torch.save` and all load its file. `what` says which tensor it is."""
    cut = layout_of(tensor)
    if cut is None or not cut.cuts:
        return
    saved = cut.mesh.get_coordinate()  # in a file it is that of the rank that wrote it
    there = None if saved is None else tuple((saved[index], cut.mesh.size(index)) for index, _ in cut.cuts)
    here = _place_in(cut)
    if there != here:
        raise ValueError(
            f"{what} is {_told(there)}, and this rank has {_told(here)}: torch.save writes the parts of its own rank "
            "alone; save state in parts with torch.distributed.checkpoint, or load on each rank what that rank saved"
        )
    if tuple(local(tensor).shape) != cut.part_shape():
        raise ValueError(
            f"{what} has a part of shape {tuple(local(tensor).shape)}, and this rank's of {cut.shape} is "
            f"{cut.part_shape()}"
        )


def _place_in(layout: Layout) -> tuple[tuple[int, int], ...] | None:
    """Which rank this is along each dimension of the mesh that cuts, and of how many; None where it is not on the
    mesh, or the mesh is one of other ranks than run now."""
    try:
        return tuple((group.rank(), group.size()) for group in layout.groups)
    except (RuntimeError, LookupError, AssertionError):
        return None


def _told(place: tuple[tuple[int, int], ...] | None) -> str:
    return "no part" if place is None else "part " + " and ".join(f"{rank} of {ranks}" for rank, ranks in place)
