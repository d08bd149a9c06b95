"""Products and decompositions of large matrices on a CPU, worked out block by block.

A CPU's libraries do the whole of a symmetric product, and a QR decomposition at half the speed of their products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.algebra import cpu_products

# Rows of a block: measured, fewer keep no core busy.
BLOCK = 256
# Columns whose reflections are found, before products carry them to all others; and of these, columns whose reflections
# LAPACK finds: measured, for matrices of fewer columns than LARGE and for others.
PANEL = 64, 64
LARGE_PANEL = 128, 32
LARGE = 1536


def in_blocks(left: Tensor, dtype: torch.dtype) -> bool:
    """Whether a symmetric product of `left` in this dtype is faster in parts. An accelerator is not filled by one."""
    in_blocks = left.device.type == "cpu" and left.ndim == 2 and left.shape[0] > BLOCK
    return in_blocks and (left.dtype == dtype or cpu_products.serves(left, left.dtype, dtype))


def in_panels(x: Tensor) -> bool:
    """Whether a QR decomposition of x, or of each matrix of a stack, is faster in panels."""
    return x.device.type == "cpu" and x.shape[-2] >= x.shape[-1] > BLOCK


def write_symmetric(
    out: Tensor, left: Tensor, right: Tensor, x: Tensor | None = None, x_factor: float = 0.0, factor: float = 1.0
) -> None:
    """Write x_factor·x + factor·left·right, all symmetric, into out, which may be x.

    What stands on one side of the diagonal is worked out, and what stands on the other is the mirror image.
    """
    if cpu_products.serves(left, left.dtype, out.dtype) and out.stride(1) == 1:
        cpu_products.write_symmetric(out, left, right, x, x_factor, factor)
        return
    if x is not None and x is not out:
        out.copy_(x)
    _add_upper(out, left, right, 0.0 if x is None else x_factor, factor)
    for start in range(0, out.shape[0], BLOCK):
        block, after = slice(start, start + BLOCK), slice(start + BLOCK, None)
        out[after, block] = out[block, after].mT


def _add_upper(x: Tensor, left: Tensor, right: Tensor, x_factor: float, factor: float) -> None:
    """Add to the blocks on the diagonal and above it: to those right of its first half in one product, then to each
    half alone."""
    blocks = -(-x.shape[0] // BLOCK)
    if blocks == 1:
        x.addmm_(left, right, beta=x_factor, alpha=factor)
        return
    half = -(-blocks // 2) * BLOCK
    first, second = slice(None, half), slice(half, None)
    x[first, second].addmm_(left[first], right[:, second], beta=x_factor, alpha=factor)
    _add_upper(x[first, first], left[first], right[:, first], x_factor, factor)
    _add_upper(x[second, second], left[second], right[:, second], x_factor, factor)


def orthonormal_columns(x: Tensor) -> Tensor:
    """Q of x = QR with a positive diagonal of R, with as many columns as x.

    By Householder's reflections I − τvvᵀ, found panel by panel. Those of a panel together are I − V·T·Vᵀ (Schreiber and
    Van Loan 1989, doi:10.1137/0910005), and so it takes products to carry them to the columns on the right, and at last
    to those of the identity.
    """
    width, least = PANEL if x.shape[-1] < LARGE else LARGE_PANEL
    rest, starts = x.clone(), range(0, x.shape[-1], width)
    reflections, diagonals = [], []
    for start in starts:
        vectors, triangle, diagonal = _reflections(rest[..., start:, start : start + width], least)
        _subtract(rest[..., start:, start + width :], vectors, triangle.mT)
        reflections.append((vectors, triangle))
        diagonals.append(diagonal)
    q = torch.zeros_like(x)
    q.diagonal(dim1=-2, dim2=-1).copy_(signs(torch.cat(diagonals, dim=-1)))
    for start, (vectors, triangle) in zip(reversed(starts), reversed(reflections), strict=True):
        _subtract(q[..., start:, start:], vectors, triangle)
    return q


def signs(diagonal: Tensor) -> Tensor:
    """−1 where a number is negative, else 1."""
    return torch.where(diagonal < 0, -1.0, 1.0).to(diagonal.dtype)


def _reflections(x: Tensor, least: int) -> tuple[Tensor, Tensor, Tensor]:
    """V and T of reflections I − V·T·Vᵀ, of which the transposed brings x to R, and R's diagonal; x is written over.

    Those of the left half are carried to the right half, down to so many columns.
    """
    if x.shape[-1] <= least:
        panel, scales = torch.geqrf(x)
        vectors = panel.tril(-1)
        vectors.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        return vectors, _triangle(vectors, scales), panel.diagonal(dim1=-2, dim2=-1)
    half = x.shape[-1] // 2
    left, left_triangle, left_diagonal = _reflections(x[..., :half], least)
    _subtract(x[..., half:], left, left_triangle.mT)
    right, right_triangle, right_diagonal = _reflections(x[..., half:, half:], least)
    vectors, triangle = x.new_zeros(x.shape), x.new_zeros(*x.shape[:-2], x.shape[-1], x.shape[-1])
    vectors[..., :half], vectors[..., half:, half:] = left, right
    triangle[..., :half, :half], triangle[..., half:, half:] = left_triangle, right_triangle
    # (I − V₁T₁V₁ᵀ)(I − V₂T₂V₂ᵀ)
    triangle[..., :half, half:] = -left_triangle @ (left[..., half:, :].mT @ right) @ right_triangle
    return vectors, triangle, torch.cat([left_diagonal, right_diagonal], dim=-1)


def _triangle(vectors: Tensor, scales: Tensor) -> Tensor:
    """T of the reflections' product I − V·T·Vᵀ.

    Its inverse has 1/τ on its diagonal and VᵀV above it (Puglisi 1992, doi:10.1137/0913042); T is written here without
    dividing by a τ, which is 0 where nothing is to be reflected.
    """
    above = (vectors.mT @ vectors).triu(1) * scales[..., None, :]
    identity = torch.eye(scales.shape[-1], dtype=scales.dtype, device=scales.device).expand_as(above)
    inverse: Tensor = torch.linalg.solve_triangular(above, identity, upper=True, unitriangular=True)
    return scales[..., :, None] * inverse


def _subtract(x: Tensor, vectors: Tensor, triangle: Tensor) -> None:
    """Write x − V·T·Vᵀ·x into x."""
    if x.ndim == 2:
        x.addmm_(vectors, triangle @ (vectors.mT @ x), alpha=-1.0)
    else:
        x.sub_(vectors @ (triangle @ (vectors.mT @ x)))
