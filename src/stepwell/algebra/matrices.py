"""Functions of whole matrices, for rules that act on them: (…, rows, cols), each matrix of a stack on its own.

They take torch's tensors and JAX's arrays. Beside them stand `@`, `.mT`, `.shape`, `.ndim`, `.reshape`, and the
functions of `stepwell.algebra`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from stepwell.algebra.functions import absolute, cos, log, maximum, sign, sqrt, where
from stepwell.algebra.kinds import MatrixKind, kind_of

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
    x: Any, coefficients: Coefficients | list[Coefficients] = JORDAN, steps: int = 5, eps: float = 1e-7
) -> Any:
    """The matrices near the orthogonal factor UVᵀ of x = USVᵀ, by Newton–Schulz iteration.

    Each step is X ← aX + b(XXᵀ)X + c(XXᵀ)²X on X scaled to Frobenius norm 1 (Jordan et al. 2024, "Muon"). The default
    coefficients rise steeply at 0 rather than converge: singular values end between about 0.7 and 1.2.

    Args:
        x: (…, rows, cols). float64 is worked in float64; other dtypes in bfloat16 where the device is faster
            in it, else in float32.
        coefficients: (a, b, c) of every step, or of each.
        steps: number of iterations, where each is the same.
        eps: the least Frobenius norm that x is divided by.

    Returns:
        Matrices of the shape of x, in the dtype they were worked in.
    """
    kind = _kind(x)
    tall = x.shape[-2] > x.shape[-1]
    wide = x.mT if tall else x
    dtype, is_precise = kind.product_dtype(x)
    wide = kind.cast(wide, dtype)
    wide = wide / maximum(frobenius(wide), eps)
    rows, cols = wide.shape[-2:]
    polynomials = coefficients if isinstance(coefficients, list) else [coefficients] * steps
    # In products of rows³, a polynomial by itself takes 2·cols/rows + 1, and n together 2·cols/rows + 4n − 3.
    together = 2 * cols > 3 * rows and (is_precise or rows >= _WORTH_ROUNDING)
    gain = _PRECISE_GAIN if is_precise else _ROUGH_GAIN
    for group in _groups(polynomials, gain if together else 0.0):
        wide = _next_iterate(wide, group)
    return wide.mT if tall else wide


# How much larger the smallest singular values may become before XXᵀ is worked out anew. What polynomials make of it
# together is rounded, which is as large beside the largest singular values as this gain in the last digit; and rounding
# puts the smallest eigenvalues below zero, where the iteration diverges: in float32 after more than five steps.
_PRECISE_GAIN, _ROUGH_GAIN = 1000.0, 12.0
# In bfloat16 that costs about as much again as the iteration is off by rounding anyway: rows from which it is worth it.
_WORTH_ROUNDING = 256


def _groups(polynomials: Sequence[Coefficients], gain: float) -> list[list[Coefficients]]:
    """The polynomials in as few groups as make small singular values at most so many times larger, if more than one
    polynomial is in a group."""
    groups: list[list[Coefficients]] = []
    so_far = math.inf
    for polynomial in polynomials:
        so_far *= abs(polynomial[0])
        if so_far > gain:
            groups.append([])
            so_far = abs(polynomial[0])
        groups[-1].append(polynomial)
    return groups


def _next_iterate(x: Any, polynomials: Sequence[Coefficients]) -> Any:
    """X ← …P₂P₁X for P = aI + bG + cG² of G = XXᵀ, which P₁ makes P₁GP₁.

    Each P and each G is a polynomial in the first G: they commute, and all their products are symmetric. Here P is
    a·I + `rest`, and the product of all so far `share`·I + `others`.
    """
    kind = _kind(x)
    square = gram(x)
    a, b, c = polynomials[0]
    others = rest = kind.add_symmetric_product(square, square, square.mT, b, c)
    share = a
    for next_a, next_b, next_c in polynomials[1:]:
        once = kind.add_symmetric_product(square, rest, square, a, 1.0)
        square = kind.add_symmetric_product(once, rest, once, a, 1.0)
        a, b, c = next_a, next_b, next_c
        rest = kind.add_symmetric_product(square, square, square.mT, b, c)
        others = kind.add_symmetric_product(others, rest, others, a, 1.0) + share * rest
        share *= a
    return kind.add_product(x, others, x, share, 1.0)


def either(condition: Any, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
    """What `first` gives where the condition holds, else what `second` gives; only that one is worked out.

    The condition is one number's. Both give the same slots, of the same shapes: under `jax.jit` both are traced. For
    elements and tensors, whose kernels have no branches, take `where`.
    """
    if hasattr(kind := kind_of(condition), "either"):
        return kind.either(condition, first, second)
    return first() if condition else second()


def as_dtype_of(x: Any, like: Any) -> Any:
    """x in the dtype of `like`."""
    return _kind(x).cast(x, like.dtype)


def for_rough_products(x: Any) -> Any:
    """x in the dtype of products whose last digits do not count: float64 stays, others become bfloat16 where the
    device is faster in it, else float32."""
    kind = _kind(x)
    return kind.cast(x, kind.product_dtype(x)[0])


def identity_like(x: Any) -> Any:
    """The identity in the shape of square matrices."""
    return _kind(x).identity(x)


def filled_like(x: Any, number: float) -> Any:
    """That number in the shape of x."""
    return _kind(x).filled(x, number)


def gram(x: Any) -> Any:
    """x·xᵀ, symmetric: of each number and its mirror image one is worked out."""
    return _kind(x).symmetric_product(x, x.mT)


def lerp_gram(average: Any, x: Any, weight: Any) -> Any:
    """(1 − weight)·average + weight·x·xᵀ, of a symmetric average."""
    return _kind(x).lerp_gram(average, x, weight)


def lerp_rough_gram(average: Any, x: Any, weight: Any) -> Any:
    """The same, of x in bfloat16 where the device multiplies that faster and adds the products up in float32."""
    return _kind(x).lerp_rough_gram(average, x, weight)


def row_total(x: Any) -> Any:
    """The sum of each row, as (…, rows, 1)."""
    return _kind(x).row_total(x)


def column_total(x: Any) -> Any:
    """The sum of each column, as (…, 1, cols)."""
    return _kind(x).column_total(x)


def frobenius(x: Any) -> Any:
    """The Frobenius norm of each matrix, as (…, 1, 1)."""
    return _kind(x).frobenius(x)


def largest(x: Any) -> Any:
    """The largest absolute value in each matrix, as (…, 1, 1)."""
    return _kind(x).largest(absolute(x))


def upper_triangle(x: Any) -> Any:
    """x with zeros below its diagonal."""
    return _kind(x).upper_triangle(x)


def solve_lower(factor: Any, x: Any) -> Any:
    """The inverse of lower triangular matrices times x."""
    return _kind(x).solve_lower(factor, x)


def join_rows(blocks: Sequence[Any]) -> Any:
    """The matrix that has the rows of all blocks, one below the other."""
    return _kind(blocks[0]).join_rows(blocks)


def descending(x: Any) -> Any:
    """The places of the numbers of each row, that of the largest first."""
    return _kind(x).descending(x)


def move_axis(x: Any, axis: int, to: int) -> Any:
    """x with one of its axes at another place among them."""
    return _kind(x).move_axis(x, axis, to)


def take_along(x: Any, places: Any, axis: int) -> Any:
    """What stands in these places of an axis; `places` has the dimensions of x, or 1 where they serve all of it."""
    return _kind(x).take_along(x, places, axis)


def take_columns(x: Any, places: Any) -> Any:
    """The columns of x that stand in these places (…, cols), in that order."""
    return take_along(x, places[..., None, :], -1)


def longest_column(x: Any) -> Any:
    """The column of each matrix that has the greatest norm, as (…, rows, 1)."""
    kind = _kind(x)
    return kind.take_along(x, kind.places_of_largest(column_total(x * x).mT), -1)


def normal_like(x: Any, seed: Any) -> Any:
    """Normal numbers in the shape of x, the same at each call, for each matrix of a stack, and on every device.

    By Box and Muller (1958, doi:10.1214/aoms/1177706645) from a hash of the place and the seed: so the number of a step
    will do for a seed, also under `jax.jit`, where it is not known before.
    """
    kind, (rows, cols) = _kind(x), x.shape[-2:]
    places, key = kind.whole_numbers(x, 0, 2 * rows * cols), kind.whole_numbers(x, seed + 1, 1)
    bits = _hashed(_hashed(places) ^ _hashed(key)) >> 7
    uniform = (kind.cast(bits, x.dtype) + 1.0) / 2.0**24  # in (0, 1], for the logarithm
    first, second = uniform.reshape(2, rows, cols)
    return kind.broadcast(sqrt(-2.0 * log(first)) * cos(2.0 * math.pi * second), x.shape)


def _hashed(x: Any) -> Any:
    """31 bits that look random: Mueller's integer hash, two rounds of xorshift and multiplication.

    The product of two such numbers fits in torch's int64; JAX's uint32 keeps its last 32 bits, and so the same 31.
    """
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0x7FFFFFFF
    return (x >> 16) ^ x


def orthonormal_columns(x: Any) -> Any:
    """Q of x = QR with a positive diagonal of R: Gram and Schmidt's basis, which changes little where x does."""
    return _kind(x).orthonormal_columns(x)


def eigenbasis(x: Any) -> Any:
    """The eigenvectors of symmetric matrices, in columns, the one of the largest eigenvalue first.

    Of v and −v it takes the one whose largest element is positive. All NaN where a matrix is not finite.
    """
    if x.shape[-1] == 0:
        return x
    kind = _kind(x)
    finite = kind.is_finite(x)
    _, vectors = kind.eigh(where(finite, x, 0.0))
    peak = kind.take_along(vectors, kind.places_of_largest(absolute(vectors)), -2)
    return where(finite, vectors * sign(peak), math.nan)


def inverse_root(x: Any, root: int, eps: float) -> Any:
    """(x + ε·I)^(−1/root) of symmetric matrices without negative eigenvalues; NaN where a matrix is not finite."""
    kind = _kind(x)
    finite = kind.is_finite(x)
    values, vectors = kind.eigh(where(finite, x, 0.0))
    powers = (maximum(values, 0.0) + eps) ** (-1.0 / root)
    return where(finite, (vectors * powers[..., None, :]) @ vectors.mT, math.nan)


def _kind(x: Any) -> MatrixKind:
    return cast(MatrixKind, kind_of(x))
