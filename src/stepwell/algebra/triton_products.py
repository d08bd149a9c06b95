"""Symmetric products of matrices as a Triton kernel: what stands above the diagonal is the mirror image of what stands
below it, and is not worked out.

Imported once there is a GPU to run it on, for it needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of the result that a program works out, in rows and in columns, and how many products of each at a time.
SIDE, DEPTH = 128, 64


@triton.jit
def _tile(
    left,
    right,
    x,
    out,
    rows,
    inner,
    left_matrix,
    left_row,
    left_column,
    right_matrix,
    right_row,
    right_column,
    x_matrix,
    x_row,
    x_column,
    x_factor,
    product_factor,
    HAS_X: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One tile on or below the diagonal, and its mirror image. Tiles are counted row by row: 0; 1, 2; 3, 4, 5; …"""
    number = tl.program_id(0)
    row = ((tl.sqrt(8.0 * number + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > number, row - 1, row)  # where the root was rounded across a whole number
    row = tl.where((row + 1) * (row + 2) // 2 <= number, row + 1, row)
    column = number - row * (row + 1) // 2
    matrix = tl.program_id(1).to(tl.int64)
    at_row = (row * SIDE + tl.arange(0, SIDE)).to(tl.int64)
    at_column = (column * SIDE + tl.arange(0, SIDE)).to(tl.int64)
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, inner, DEPTH):
        at = start + tl.arange(0, DEPTH)
        from_left = left + matrix * left_matrix + at_row[:, None] * left_row + at[None, :] * left_column
        from_right = right + matrix * right_matrix + at[:, None] * right_row + at_column[None, :] * right_column
        total = tl.dot(
            tl.load(from_left, (at_row < rows)[:, None] & (at < inner)[None, :], 0.0),
            tl.load(from_right, (at < inner)[:, None] & (at_column < rows)[None, :], 0.0),
            total,
        )
    total *= product_factor
    inside = (at_row < rows)[:, None] & (at_column < rows)[None, :]
    if HAS_X:
        from_x = x + matrix * x_matrix + at_row[:, None] * x_row + at_column[None, :] * x_column
        total += x_factor * tl.load(from_x, inside, 0.0).to(tl.float32)
    rounded = total.to(out.dtype.element_ty)
    out += matrix * rows * rows
    if row == column:  # the same numbers on both sides of the diagonal
        rounded = tl.where(at_row[:, None] >= at_column[None, :], rounded, tl.trans(rounded))
    else:
        tl.store(out + at_column[:, None] * rows + at_row[None, :], tl.trans(rounded), tl.trans(inside))
    tl.store(out + at_row[:, None] * rows + at_column[None, :], rounded, inside)


def symmetric(
    left: Tensor,
    right: Tensor,
    x: Tensor | None = None,
    x_factor: float = 0.0,
    product_factor: float = 1.0,
    *,
    side: int = SIDE,
    depth: int = DEPTH,
) -> Tensor:
    """x_factor·x + product_factor·left·right, which the caller knows to be symmetric, added up in float32.

    Args:
        left: (rows, inner), or a stack (n, rows, inner), of 16 bits a number.
        right: (inner, rows), or (n, inner, rows).
        x: symmetric, (rows, rows) or (n, rows, rows); none by default.
        x_factor: what x is multiplied with.
        product_factor: what the product is multiplied with.
        side: rows and columns of a tile.
        depth: products at a time.

    Returns:
        (rows, rows) or (n, rows, rows), in the dtype of `left`.
    """
    rows, inner = left.shape[-2:]
    count = left.shape[0] if left.ndim == 3 else 1
    out = torch.empty((*left.shape[:-2], rows, rows), dtype=left.dtype, device=left.device)
    in_a_row = triton.cdiv(rows, side)
    if out.numel():
        with torch.cuda.device_of(left):  # type: ignore[no-untyped-call]  # Triton launches on the current device
            _tile[(in_a_row * (in_a_row + 1) // 2, count)](
                left,
                right,
                left if x is None else x,
                out,
                rows,
                inner,
                *_strides(left),
                *_strides(right),
                *_strides(left if x is None else x),
                float(x_factor),
                float(product_factor),
                HAS_X=x is not None,
                SIDE=side,
                DEPTH=depth,
                num_warps=8 if side >= 128 else 4,
                num_stages=3,
            )
    return out


def _strides(matrices: Tensor) -> tuple[int, int, int]:
    """From matrix to matrix, from row to row and from column to column."""
    between, row, column = matrices.stride() if matrices.ndim == 3 else (0, *matrices.stride())
    return between, row, column
