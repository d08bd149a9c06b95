"""Whether all ranks are about to take the same step. What one rank leaves out, others would wait for, or do alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def counts_over(mesh: DeviceMesh, said: Sequence[bool]) -> list[int]:
    """On how many ranks of the mesh each of these holds. All of them ask, about equally many things."""
    numbers = torch.tensor(said, dtype=torch.int32, device=mesh.device_type)
    return _added_up(mesh, numbers).tolist()


def ranks_of(mesh: DeviceMesh, said: bool) -> tuple[list[int], list[int]]:
    """The ranks of the mesh on which it holds, and those on which it does not."""
    everyone = mesh.mesh.flatten().tolist()
    numbers = torch.zeros(len(everyone), dtype=torch.int32, device=mesh.device_type)
    numbers[everyone.index(torch.distributed.get_rank())] = said
    holds = _added_up(mesh, numbers).tolist()
    found: tuple[list[int], list[int]] = ([], [])
    for rank, yes in zip(everyone, holds, strict=True):
        found[0 if yes else 1].append(rank)
    return found


def _added_up(mesh: DeviceMesh, numbers: Tensor) -> Tensor:
    for dim in range(mesh.ndim):
        if mesh.size(dim) > 1:
            torch.distributed.all_reduce(numbers, group=mesh.get_group(dim))
    return numbers
