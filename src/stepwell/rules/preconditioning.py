"""What rules with a matrix, or its diagonal, for each side of a parameter share: its size, and products with it."""

from __future__ import annotations

from typing import Any, Literal

from stepwell.algebra import square
from stepwell.algebra.matrices import gram, row_total
from stepwell.rules.rule import Shape

Side = Literal["rows", "columns"]


def square_or_diagonal(shape: Shape, *, side: Side, limit: int) -> Shape:
    """The shape of the factor for one side of (…, rows, cols): (…, n, n), or where n is 1 or above the limit its
    diagonal, (…, n, 1)."""
    *stack, rows, cols = shape
    size = rows if side == "rows" else cols
    return (*stack, size, size) if 1 < size <= limit else (*stack, size, 1)


def is_square(factor: Any) -> bool:
    """Whether a factor is a whole matrix, no diagonal (…, n, 1)."""
    return bool(factor.shape[-1] > 1)


def times(factor: Any, x: Any) -> Any:
    """The factor of the rows of x times x."""
    return factor @ x if is_square(factor) else factor * x


def times_transposed(factor: Any, x: Any) -> Any:
    """The transposed factor of the rows of x times x."""
    return factor.mT @ x if is_square(factor) else factor * x


def outer_square(x: Any, factor: Any) -> Any:
    """x·xᵀ, or its diagonal where the factor of the rows is one."""
    return gram(x) if is_square(factor) else row_total(square(x))
