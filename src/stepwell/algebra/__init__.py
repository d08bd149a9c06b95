"""The algebra: the functions that a rule or a schedule may use, on every kind of number."""

from stepwell.algebra import plain as _plain  # registers Python's own numbers
from stepwell.algebra.functions import (
    absolute,
    column_mean,
    cos,
    exp,
    floor,
    lerp,
    log,
    maximum,
    mean,
    minimum,
    norm,
    row_mean,
    sign,
    sqrt,
    square,
    total,
    where,
)
from stepwell.algebra.kinds import Kind, Number, kind_of, register

__all__ = [
    "Kind",
    "Number",
    "absolute",
    "column_mean",
    "cos",
    "exp",
    "floor",
    "kind_of",
    "lerp",
    "log",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "register",
    "row_mean",
    "sign",
    "sqrt",
    "square",
    "total",
    "where",
]

del _plain
