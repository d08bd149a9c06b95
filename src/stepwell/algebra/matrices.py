"""Functions of whole matrices, for rules that act on them: (…, rows, cols) tensors, each matrix on its own."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def orthogonalized(
    x: Tensor, coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), steps: int = 5, eps: float = 1e-7
) -> Tensor:
    """The matrices near the orthogonal factor UVᵀ of x = USVᵀ, by Newton–Schulz iteration.

    Each step is X ← aX + b(XXᵀ)X + c(XXᵀ)²X on X scaled to Frobenius norm 1 (Jordan et al. 2024, "Muon"). The default
    coefficients rise steeply at 0 rather than converge: singular values end between about 0.7 and 1.2.

    Args:
        x: (…, rows, cols). float64 is worked in float64; other dtypes in bfloat16 where the device has instructions
            for it, else in float32.
        coefficients: (a, b, c).
        steps: number of iterations.
        eps: the least Frobenius norm that x is divided by.

    Returns:
        A tensor of the shape of x, in the dtype it was worked in.
    """
    tall = x.shape[-2] > x.shape[-1]
    wide = x.mT if tall else x
    wide = wide.to(working_dtype(x.device, x.dtype))
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    rows, cols = wide.shape[-2:]
    # In products of rows³: 10·cols/rows + 5 for the direct iteration against 17 + 2·cols/rows on the Gram matrix.
    # bfloat16 rounds the Gram matrix's small eigenvalues below zero, where the iteration diverges.
    iterate = _on_the_gram_matrix if 2 * cols > 3 * rows and wide.dtype != torch.bfloat16 else _directly
    result = iterate(wide, coefficients, steps)
    return result.mT if tall else result


def _directly(x: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = _add_product(x, _add_product(gram, gram, gram, b, c), x, a, 1.0)
    return x


def _on_the_gram_matrix(x: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """The same iteration on G = XXᵀ: X ← PX makes G ← PGP, and the product of all P meets X once, at the end."""
    a, b, c = coefficients
    gram = x @ x.mT
    identity = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product: Tensor | None = None
    for step in range(steps):
        polynomial = _add_product(gram, gram, gram, b, c) + a * identity
        product = polynomial if product is None else polynomial @ product
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    return x if product is None else product @ x


def _add_product(x: Tensor, left: Tensor, right: Tensor, x_factor: float, product_factor: float) -> Tensor:
    """x_factor·x + product_factor·(left @ right)."""
    if x.ndim == 2:
        return torch.addmm(x, left, right, beta=x_factor, alpha=product_factor)
    if x.ndim == 3:
        return torch.baddbmm(x, left, right, beta=x_factor, alpha=product_factor)
    return x_factor * x + product_factor * (left @ right)


def working_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which to multiply matrices of `dtype` on `device` when precision is not what counts."""
    if dtype == torch.float64:
        return dtype
    return torch.bfloat16 if _bfloat16_is_fast(device.type) else torch.float32


@functools.cache
def _bfloat16_is_fast(device_type: str) -> bool:
    """Whether this device has instructions for bfloat16 products. A CPU without them is up to fifty times slower."""
    if device_type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
