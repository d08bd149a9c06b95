"""Functions of whole matrices, for rules that act on them: (…, rows, cols) tensors, each matrix on its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Coefficients = tuple[float, float, float]

JORDAN: Coefficients = (3.4445, -4.7750, 2.0315)

# The best odd polynomials of degree 5 one after another, for singular values from 1e-3 to 1 (Amsel et al. 2025, "The
# Polar Express", arXiv:2505.16932, listing 1). From the last on, the iteration is Newton–Schulz's own.
POLAR_EXPRESS: tuple[Coefficients, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def polar_express(steps: int) -> list[Coefficients]:
    """The coefficients of so many steps of the Polar Express.

    All but the last polynomial take σ/1.01 in σ's place, as in the paper: rounding may leave singular values a little
    above the 1 that they were made for.
    """
    gentle = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return [gentle[step] if step < len(gentle) else POLAR_EXPRESS[-1] for step in range(steps)]


def orthogonalized(
    x: Tensor, coefficients: Coefficients | list[Coefficients] = JORDAN, steps: int = 5, eps: float = 1e-7
) -> Tensor:
    """The matrices near the orthogonal factor UVᵀ of x = USVᵀ, by Newton–Schulz iteration.

    Each step is X ← aX + b(XXᵀ)X + c(XXᵀ)²X on X scaled to Frobenius norm 1 (Jordan et al. 2024, "Muon"). The default
    coefficients rise steeply at 0 rather than converge: singular values end between about 0.7 and 1.2.

    Args:
        x: (…, rows, cols). float64 is worked in float64; other dtypes in bfloat16 where the device has instructions
            for it, else in float32.
        coefficients: (a, b, c) of every step, or of each.
        steps: number of iterations, where each is the same.
        eps: the least Frobenius norm that x is divided by.

    Returns:
        A tensor of the shape of x, in the dtype it was worked in.
    """
    tall = x.shape[-2] > x.shape[-1]
    wide = x.mT if tall else x
    wide = wide.to(working_dtype(x.device, x.dtype))
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    rows, cols = wide.shape[-2:]
    polynomials = coefficients if isinstance(coefficients, list) else [coefficients] * steps
    # In products of rows³: 10·cols/rows + 5 for the direct iteration against 17 + 2·cols/rows on the Gram matrix.
    # Rounding puts the Gram matrix's small eigenvalues below zero, where the iteration diverges: each step makes them
    # about twelve times larger. In bfloat16 that comes at once, in float32 after more than five.
    by_gram = 2 * cols > 3 * rows and wide.dtype != torch.bfloat16 and len(polynomials) <= 5
    result = (_on_the_gram_matrix if by_gram else _directly)(wide, polynomials)
    return result.mT if tall else result


def _directly(x: Tensor, polynomials: Sequence[Coefficients]) -> Tensor:
    for a, b, c in polynomials:
        gram = x @ x.mT
        x = _add_product(x, _add_product(gram, gram, gram, b, c), x, a, 1.0)
    return x


def _on_the_gram_matrix(x: Tensor, polynomials: Sequence[Coefficients]) -> Tensor:
    """The same iteration on G = XXᵀ: X ← PX makes G ← PGP, and the product of all P meets X once, at the end."""
    gram = x @ x.mT
    identity = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product: Tensor | None = None
    for step, (a, b, c) in enumerate(polynomials, start=1):
        polynomial = _add_product(gram, gram, gram, b, c) + a * identity
        product = polynomial if product is None else polynomial @ product
        if step < len(polynomials):
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


def frobenius(x: Tensor) -> Tensor:
    """The Frobenius norm of each matrix, as (…, 1, 1)."""
    norms: Tensor = torch.linalg.matrix_norm(x, keepdim=True)
    return norms


def normal_like(x: Tensor, seed: int) -> Tensor:
    """Normal numbers in the shape of x, the same at each call and for each matrix of a stack."""
    if x.is_meta:  # there are no numbers to draw
        return torch.empty_like(x)
    generator = torch.Generator(x.device).manual_seed(seed)
    # In float32 whatever x is: the numbers that a seed gives depend on the dtype.
    numbers = torch.randn(x.shape[-2:], generator=generator, device=x.device)
    return numbers.to(x.dtype).expand(x.shape)


def orthonormal_columns(x: Tensor) -> Tensor:
    """Q of x = QR with a positive diagonal of R: Gram and Schmidt's basis, which changes little where x does."""
    q, r = torch.linalg.qr(x)
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    oriented: Tensor = q * signs.unsqueeze(-2)
    return oriented


def eigenbasis(x: Tensor) -> Tensor:
    """The eigenvectors of symmetric matrices, in columns, the one of the largest eigenvalue first.

    Of v and −v it takes the one whose largest element is positive. All NaN where a matrix is not finite.
    """
    if x.shape[-1] == 0:
        return x
    finite = x.isfinite().flatten(-2).all(-1)[..., None, None]
    _, vectors = torch.linalg.eigh(torch.where(finite, x, 0.0))
    vectors = vectors.flip(-1)
    largest = torch.take_along_dim(vectors, vectors.abs().argmax(-2, keepdim=True), -2)
    return torch.where(finite, vectors * largest.sign(), torch.nan)


def inverse_root(x: Tensor, root: int, eps: float) -> Tensor:
    """(x + ε·I)^(−1/root) of symmetric matrices without negative eigenvalues; NaN where a matrix is not finite."""
    finite = x.isfinite().flatten(-2).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, x, 0.0))
    powers = (values.clamp(min=0.0) + eps) ** (-1.0 / root)
    return torch.where(finite, (vectors * powers.unsqueeze(-2)) @ vectors.mT, torch.nan)
