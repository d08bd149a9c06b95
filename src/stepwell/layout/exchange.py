"""From parts on many ranks to whole tensors, each on one rank, and back: two messages, each to every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepwell.layout.parts import Layout, piece

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Sent:
    """One tensor that takes part.

    Args:
        layout: how it is cut; at most one dimension of the mesh cuts it.
        owner: the rank, in the group, that gets it whole.
        dtype: of its numbers.
    """

    layout: Layout
    owner: int
    dtype: torch.dtype

    @property
    def dim(self) -> int | None:
        """The dimension that is cut; None where every rank has the whole."""
        return self.layout.cuts[0][1] if self.layout.cuts else None


class Exchange:
    """Tensors that go to their owners together, and back.

    Args:
        group: the ranks over which all of them are cut.
        tensors: what takes part, the same on all ranks.
    """

    def __init__(self, group: ProcessGroup, tensors: Sequence[Sent]) -> None:
        self._group = group
        self._ranks = group.size()
        self._rank = group.rank()
        self._tensors = tensors
        self._mine = [index for index, sent in enumerate(tensors) if sent.owner == self._rank]

    def gather(self, parts: Sequence[Tensor]) -> dict[int, Tensor]:
        """The whole tensors that this rank owns, by their places. `parts` are what it holds of all."""
        outgoing: list[list[Tensor]] = [[] for _ in range(self._ranks)]
        for sent, part in zip(self._tensors, parts, strict=True):
            if sent.dim is not None:
                outgoing[sent.owner].append(part)
        cut = [index for index in self._mine if self._tensors[index].dim is not None]
        arrived = self._send(outgoing, [{index: self._part_shape(index, rank) for index in cut} for rank in self._all])
        wholes = {index: parts[index] for index in self._mine}
        for index in cut:
            pieces = [arrived[rank][index] for rank in self._all]
            wholes[index] = torch.cat(pieces, dim=self._tensors[index].dim or 0)
        return wholes

    def scatter(self, wholes: Mapping[int, Tensor], parts: Sequence[Tensor]) -> None:
        """Put what every rank holds of the tensors into its parts. `wholes` are those that this rank owns."""
        outgoing: list[list[Tensor]] = [[] for _ in range(self._ranks)]
        for index in self._mine:
            for rank, part in enumerate(self._pieces(index, wholes[index])):
                outgoing[rank].append(part)
        awaited: list[dict[int, torch.Size]] = [{} for _ in range(self._ranks)]
        for index, sent in enumerate(self._tensors):
            awaited[sent.owner][index] = self._part_shape(index, self._rank)
        for from_owner in self._send(outgoing, awaited):
            for index, part in from_owner.items():
                parts[index].copy_(part)

    @property
    def _all(self) -> range:
        return range(self._ranks)

    def _pieces(self, index: int, whole: Tensor) -> list[Tensor]:
        """What each rank holds of the whole."""
        dim = self._tensors[index].dim
        if dim is None:
            return [whole] * self._ranks
        pieces = list(whole.chunk(self._ranks, dim=dim))
        return pieces + [whole.narrow(dim, 0, 0)] * (self._ranks - len(pieces))

    def _part_shape(self, index: int, rank: int) -> torch.Size:
        """The shape of what a rank holds: as `torch.chunk` cuts."""
        sent = self._tensors[index]
        shape = list(sent.layout.shape)
        if sent.dim is not None:
            _, shape[sent.dim] = piece(shape[sent.dim], self._ranks, rank)
        return torch.Size(shape)

    def _send(
        self, outgoing: Sequence[Sequence[Tensor]], awaited: Sequence[Mapping[int, torch.Size]]
    ) -> list[dict[int, Tensor]]:
        """One message to each rank, and what has arrived from each, by place; `awaited` are the shapes of that."""
        device = torch.device(self._tensors[0].layout.device)
        nothing = torch.empty(0, dtype=torch.uint8, device=device)
        messages = [torch.cat([nothing, *map(_bytes_of, tensors)]) for tensors in outgoing]
        sizes = [
            [shape.numel() * self._tensors[index].dtype.itemsize for index, shape in shapes.items()]
            for shapes in awaited
        ]
        arriving = torch.empty(sum(map(sum, sizes)), dtype=torch.uint8, device=device)
        torch.distributed.all_to_all_single(
            arriving, torch.cat(messages), list(map(sum, sizes)), list(map(len, messages)), group=self._group
        )
        found: list[dict[int, Tensor]] = []
        for message, shapes, lengths in zip(torch.split(arriving, list(map(sum, sizes))), awaited, sizes, strict=True):
            pieces = torch.split(message, lengths) if lengths else ()
            found.append(
                {
                    # A copy begins where a number of any dtype may begin.
                    index: part.clone().view(self._tensors[index].dtype).reshape(shape)
                    for (index, shape), part in zip(shapes.items(), pieces, strict=True)
                }
            )
        return found


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
