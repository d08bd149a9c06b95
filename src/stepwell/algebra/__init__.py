"""The algebra: the functions that a rule or a schedule may use, on every kind of number."""

from stepwell.algebra import plain as _plain  # registers Python's own numbers
from stepwell.algebra.functions import (
    absolute,
    cos,
    exp,
    floor,
    lerp,
    log,
    maximum,
    mean,
    minimum,
    norm,
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
    "sign",
    "sqrt",
    "square",
    "total",
    "where",
]

del _plain
