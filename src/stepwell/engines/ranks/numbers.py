"""A list of parts of tensors as a number: arithmetic is each rank's own, and reductions are over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.algebra.kinds import register
from stepwell.algebra.lists import Lists, TensorList
from stepwell.layout.parts import Layout
from stepwell.layout.sums import sum_over_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Extent:
    """What a part is of.

    Args:
        shape: of the whole, as the rule sees it.
        cuts: which of its dimensions is cut over which group of ranks; counted from the end, -1 is the last.
    """

    shape: Shape
    cuts: frozenset[tuple[int, ProcessGroup]]

    @classmethod
    def of(cls, layout: Layout, shape: Shape) -> Extent:
        """The extent of a tensor in this layout, seen in a shape that cuts the same dimensions."""
        groups = layout.groups
        lost = len(layout.shape) - len(shape)  # trailing dimensions that the shape has joined
        cuts = ((dim + lost, group) for (_, dim), group in zip(layout.cuts, groups, strict=True))
        return cls(shape, frozenset(cuts))

    def with_other(self, other: Extent) -> Extent:
        """The extent of what comes of arithmetic on both."""
        return self if self == other else Extent(broadcast(self.shape, other.shape), self.cuts | other.cuts)

    def reduced(self, dims: Sequence[int], *, keep: bool) -> tuple[Extent, tuple[ProcessGroup, ...], int]:
        """After a sum over these dimensions: the extent, the ranks that have to add up, and how many elements made up
        each sum."""
        count = 1
        for dim in dims:
            count *= self.shape[dim]
        shape = tuple(
            1 if place - len(self.shape) in dims else size
            for place, size in enumerate(self.shape)
            if keep or place - len(self.shape) not in dims
        )
        over = sorted(((dim, group) for dim, group in self.cuts if dim in dims), key=lambda cut: cut[1].group_name)
        rest = frozenset((dim, group) for dim, group in self.cuts if dim not in dims)
        return Extent(shape, rest), tuple(group for _, group in over), count


def broadcast(shape: Shape, other: Shape) -> Shape:
    """The shape of the sum of tensors of these shapes."""
    return tuple(torch.broadcast_shapes(shape, other))  # type: ignore[no-untyped-call]


class Parts(TensorList):
    """The parts that this rank holds of tensors that go through the same arithmetic together."""

    __slots__ = ("extents",)

    def __init__(self, tensors: Sequence[Tensor], extents: Sequence[Extent], dtype: torch.dtype | None = None) -> None:
        super().__init__(tensors, dtype)
        self.extents = list(extents)

    def __repr__(self) -> str:
        return f"Parts({len(self.tensors)} tensors)"

    def with_tensors(self, tensors: Sequence[Tensor], *others: Any) -> Parts:
        extents = self.extents
        for other in others:
            if isinstance(other, Parts) and other is not self:
                extents = [a.with_other(b) for a, b in zip(extents, other.extents, strict=True)]
        return Parts(tensors, extents, self.dtype)


class PartsKind(Lists):
    """The algebra on `Parts`."""

    def total(self, x: Any) -> Parts:
        return _reduced(x, None, mean=False)

    def mean(self, x: Any) -> Parts:
        return _reduced(x, None, mean=True)

    def row_mean(self, x: Any) -> Parts:
        return _reduced(x, -1, mean=True)

    def column_mean(self, x: Any) -> Parts:
        return _reduced(x, -2, mean=True)


def _reduced(x: Parts, dim: int | None, *, mean: bool) -> Parts:
    """The sums over one dimension, or over all of them: of each rank's part, and then over the ranks."""
    sums, extents, groups, counts = [], [], [], []
    for tensor, extent in zip(x.tensors, x.extents, strict=True):
        dims = tuple(range(-len(extent.shape), 0)) if dim is None else (dim,)
        number = tensor if tensor.dtype.is_floating_point else tensor.to(torch.get_default_dtype())
        after, over, count = extent.reduced(dims, keep=dim is not None)
        sums.append(number.sum() if dim is None else number.sum(dim, keepdim=True))
        extents.append(after)
        groups.append(over)
        counts.append(count)
    sums = sum_over_ranks(sums, groups)
    numbers = [total / count for total, count in zip(sums, counts, strict=True)] if mean else sums
    return Parts(numbers, extents, x.dtype)


register(Parts, PartsKind())
