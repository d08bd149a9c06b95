"""The functions that a rule or a schedule may use. Each works on every kind of number.

Beside them stand the operators `+ - * / **`, unary minus, and the comparisons `< <= > >= == !=`, elementwise too, whose
results are conditions for `where`.
"""

from __future__ import annotations

from typing import Any

from stepwell.algebra.kinds import kind_of


def sqrt(x: Any) -> Any:
    """√x, elementwise; NaN below zero."""
    return kind_of(x).sqrt(x)


def square(x: Any) -> Any:
    """x², elementwise."""
    return x * x


def absolute(x: Any) -> Any:
    """|x|, elementwise."""
    return kind_of(x).absolute(x)


def sign(x: Any) -> Any:
    """-1, 0 or 1, elementwise; 0 for NaN, as in torch."""
    return kind_of(x).sign(x)


def exp(x: Any) -> Any:
    """eˣ, elementwise."""
    return kind_of(x).exp(x)


def log(x: Any) -> Any:
    """The natural logarithm, elementwise."""
    return kind_of(x).log(x)


def cos(x: Any) -> Any:
    """cos x, elementwise, x in radians."""
    return kind_of(x).cos(x)


def floor(x: Any) -> Any:
    """The largest whole number not above x, elementwise."""
    return kind_of(x).floor(x)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of x and y, elementwise; NaN where either is NaN."""
    return kind_of(x, y).minimum(x, y)


def maximum(x: Any, y: Any) -> Any:
    """The larger of x and y, elementwise; NaN where either is NaN."""
    return kind_of(x, y).maximum(x, y)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y, elementwise. Both are evaluated."""
    return kind_of(condition, x, y).where(condition, x, y)


def lerp(x: Any, y: Any, weight: Any) -> Any:
    """x + weight · (y − x): x at weight 0, y at weight 1. An average with memory β is `lerp(average, new, 1 − β)`."""
    return kind_of(x, y, weight).lerp(x, y, weight)


def total(x: Any) -> Any:
    """The sum over all elements of a tensor: one number a tensor."""
    return kind_of(x).total(x)


def mean(x: Any) -> Any:
    """The mean over all elements of a tensor: one number a tensor."""
    return kind_of(x).mean(x)


def row_mean(x: Any) -> Any:
    """The mean of each row of a matrix (…, rows, cols), as (…, rows, 1): one number a row."""
    return kind_of(x).row_mean(x)


def column_mean(x: Any) -> Any:
    """The mean of each column of a matrix (…, rows, cols), as (…, 1, cols): one number a column."""
    return kind_of(x).column_mean(x)


def norm(x: Any) -> Any:
    """The Euclidean norm √Σx² over all elements of a tensor: one number a tensor."""
    return sqrt(total(square(x)))
