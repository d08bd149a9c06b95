"""From parts on many ranks to whole tensors, each on one rank, and back: two messages, each to every rank.

Both are sent without waiting, so that a rank can work while they are under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from stepwell.layout.parts import Layout, piece

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_T = TypeVar("_T")


class Coming(Generic[_T]):
    """What a message brings, once it has arrived.

    Args:
        work: the message.
        sent: tensors that have to live until it has arrived.
        arrived: makes of it what it brings.
    """

    def __init__(self, work: Any, sent: object, arrived: Callable[[], _T]) -> None:
        self._work = work
        self._sent = sent
        self._arrived = arrived

    def wait(self) -> _T:
        """Wait for the message, on a GPU without stopping the host. To be asked once."""
        self._work.wait()
        then, self._work, self._sent, self._arrived = self._arrived, None, None, _nothing
        return then()


def _nothing() -> Any:
    raise RuntimeError("this message has been waited for already")


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

    def gather(self, parts: Sequence[Tensor]) -> Coming[dict[int, Tensor]]:
        """The whole tensors that this rank owns, by their places. `parts` are what it holds of all."""
        outgoing: list[list[Tensor]] = [[] for _ in range(self._ranks)]
        for sent, part in zip(self._tensors, parts, strict=True):
            if sent.dim is not None:
                outgoing[sent.owner].append(part)
        cut = [index for index in self._mine if self._tensors[index].dim is not None]

        def put_together(arrived: list[dict[int, Tensor]]) -> dict[int, Tensor]:
            wholes = {index: parts[index] for index in self._mine}
            for index in cut:
                pieces = [arrived[rank][index] for rank in self._all]
                wholes[index] = torch.cat(pieces, dim=self._tensors[index].dim or 0)
            return wholes

        awaited = [{index: self._part_shape(index, rank) for index in cut} for rank in self._all]
        return self._send(outgoing, awaited, put_together)

    def scatter(self, wholes: Mapping[int, Tensor], parts: Sequence[Tensor]) -> Coming[None]:
        """Put what every rank holds of the tensors into its parts. `wholes` are those that this rank owns."""
        outgoing: list[list[Tensor]] = [[] for _ in range(self._ranks)]
        for index in self._mine:
            for rank, part in enumerate(self._pieces(index, wholes[index])):
                outgoing[rank].append(part)
        awaited: list[dict[int, torch.Size]] = [{} for _ in range(self._ranks)]
        for index, sent in enumerate(self._tensors):
            awaited[sent.owner][index] = self._part_shape(index, self._rank)

        def put_in_place(arrived: list[dict[int, Tensor]]) -> None:
            for from_owner in arrived:
                for index, part in from_owner.items():
                    parts[index].copy_(part)

        return self._send(outgoing, awaited, put_in_place)

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
        self,
        outgoing: Sequence[Sequence[Tensor]],
        awaited: Sequence[Mapping[int, torch.Size]],
        then: Callable[[list[dict[int, Tensor]]], _T],
    ) -> Coming[_T]:
        """One message to each rank. What arrives from each, by place, goes to `then`; `awaited` are the shapes."""
        device = torch.device(self._tensors[0].layout.device)
        message = torch.cat([torch.empty(0, dtype=torch.uint8, device=device), *map(_bytes_of, chain(*outgoing))])
        lengths = [sum(tensor.nbytes for tensor in tensors) for tensors in outgoing]
        sizes = [
            [shape.numel() * self._tensors[index].dtype.itemsize for index, shape in shapes.items()]
            for shapes in awaited
        ]
        totals = list(map(sum, sizes))
        arriving = torch.empty(sum(totals), dtype=torch.uint8, device=device)
        work = torch.distributed.all_to_all_single(arriving, message, totals, lengths, group=self._group, async_op=True)

        def arrived() -> _T:
            found: list[dict[int, Tensor]] = []
            for received, shapes, each in zip(torch.split(arriving, totals), awaited, sizes, strict=True):
                pieces = torch.split(received, each) if each else ()
                found.append(
                    {
                        index: _numbers_of(part, self._tensors[index].dtype).reshape(shape)
                        for (index, shape), part in zip(shapes.items(), pieces, strict=True)
                    }
                )
            return then(found)

        return Coming(work, message, arrived)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _numbers_of(bytes_: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that these bytes are: a copy where they begin where no number of this dtype may."""
    return (bytes_.clone() if bytes_.storage_offset() % dtype.itemsize else bytes_).view(dtype)
