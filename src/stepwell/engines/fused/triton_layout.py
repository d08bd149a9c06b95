"""How tensors are cut into the chunks that the programs of a Triton kernel take."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.engines.fused.triton_words import BLOCK, TENSOR, TILE, WIDTHS, WORD

# A chunk has so many elements that there are about this many of them, which fills a large GPU several times over, and
# no more and no fewer than these: what a program looks up before it starts should be little beside its work.
CHUNKS = 8_192
FEWEST, MOST = 4_096, 65_536


@dataclass(frozen=True)
class Part:
    """Chunks that one launch takes: `first` is the number of the first of them among all.

    Where rows count, tiles are `columns` wide, and `aligned` says whether every row begins where a word of 16 bytes
    may begin.
    """

    chunks: Tensor
    first: int
    columns: int
    aligned: bool

    @property
    def rows(self) -> int:
        """How high a tile is."""
        return BLOCK // self.columns


@dataclass(frozen=True)
class Layout:
    """The chunks of some tensors and their sizes, on the device, and how much there is of what they leave."""

    parts: tuple[Part, ...]
    sizes: Tensor
    chunks: int
    rows: int
    columns: int
    row_sums: int
    column_sums: int


@functools.lru_cache(maxsize=64)
def layout_of(shapes: tuple[torch.Size, ...], device: torch.device, *, in_rows: bool) -> Layout:
    """The layout of tensors of these shapes, for a program that asks where rows end, or does not."""
    elements = [shape.numel() for shape in shapes]
    limit = min(MOST, max(FEWEST, 1 << max(0, sum(elements) // CHUNKS - 1).bit_length()))
    if in_rows:
        return _in_tiles([(shape[:-1].numel(), shape[-1] if shape else 1) for shape in shapes], limit, device)
    starts = [np.arange(0, size, limit) for size in elements]
    chunks = np.array(
        [
            np.repeat(np.arange(len(elements)), list(map(len, starts))),
            np.concatenate([*starts, np.empty(0)]),
            np.concatenate(
                [*(np.minimum(limit, size - start) for size, start in zip(elements, starts, strict=True)), np.empty(0)]
            ),
        ],
        dtype=np.int64,
    ).T
    sizes = np.zeros((len(elements), len(TENSOR)), dtype=np.int64)
    sizes[:, _ELEMENTS] = elements
    sizes[:, _PARTS] = list(map(len, starts))
    sizes[:, _FIRST_CHUNK] = np.cumsum(sizes[:, _PARTS]) - sizes[:, _PARTS]
    return Layout((Part(_on(device, chunks), 0, 0, True),), _on(device, sizes), len(chunks), 0, 0, 0, 0)


_ELEMENTS, _PARTS, _FIRST_CHUNK = map(TENSOR.index, ("elements", "parts", "first_chunk"))


def _in_tiles(grids: Sequence[tuple[int, int]], limit: int, device: torch.device) -> Layout:
    """Chunks of whole tiles: narrow matrices in narrow tiles, each kind in a launch of its own."""
    sizes = np.zeros((len(grids), len(TENSOR)), dtype=np.int64)
    row = column = row_sum = column_sum = count = 0
    parts: list[Part] = []
    for width in WIDTHS:
        chunks: list[tuple[int, ...]] = []
        members = [owner for owner, (_, columns) in enumerate(grids) if _width_for(columns) == width]
        lines = limit // width
        for owner in members:
            rows, columns = grids[owner]
            beside, below = -(-columns // width), -(-rows // lines)
            chunks += [
                (
                    owner,
                    line,
                    min(lines, rows - line),
                    at,
                    row + line,
                    column + at,
                    row_sum + at // width * rows + line,
                    column_sum + line // lines * columns + at,
                    columns,
                )
                for line in range(0, rows, lines)
                for at in range(0, columns, width)
            ]
            tiles = beside * below
            sizes[owner] = (
                rows * columns, rows, columns, row, column, count, tiles, row_sum, column_sum, beside, below,
            )  # fmt: skip
            row, column, count = row + rows, column + columns, count + tiles
            row_sum, column_sum = row_sum + beside * rows, column_sum + below * columns
        if chunks:
            table = np.array(chunks, dtype=np.int64).reshape(-1, len(TILE))
            aligned = all(grids[owner][1] % WORD == 0 for owner in members)
            parts.append(Part(_on(device, table), count - len(chunks), width, aligned))
    return Layout(tuple(parts), _on(device, sizes), count, row, column, row_sum, column_sum)


def _width_for(columns: int) -> int:
    return next((width for width in WIDTHS if columns <= width), WIDTHS[-1])


def _on(device: torch.device, table: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table)).to(device)
