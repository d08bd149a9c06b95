"""A Keras tensor as a number: the algebra on `keras.ops`, the same on every back end.

TensorFlow joins no two dtypes, and of two plain numbers in a `where` each library makes a dtype of its own. So a number
carries the dtype that it is worked out in, and hands it on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from stepwell.algebra.kinds import interpolated, register


class KerasNumber:
    """A tensor of any back end, or a condition, and the dtype of the arithmetic that it is part of.

    `truth` says that it is a hyper-parameter whose zero would be a flag, and that it is not zero.
    """

    __slots__ = ("dtype", "tensor", "truth")

    def __init__(self, tensor: Any, dtype: str, truth: bool = False) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.truth = truth

    @classmethod
    def of(cls, x: Any, dtype: str) -> KerasNumber:
        """A Keras variable, a tensor, or a plain number in this dtype; nothing is differentiated through it."""
        return cls(ops.stop_gradient(ops.cast(ops.convert_to_tensor(x), dtype)), dtype)

    def __repr__(self) -> str:
        return f"KerasNumber({self.tensor!r})"

    def _apply(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        plain = [x.tensor if isinstance(x, KerasNumber) else ops.convert_to_tensor(x, self.dtype) for x in arguments]
        return KerasNumber(operation(*plain), self.dtype)

    def __add__(self, other: Any) -> Any:
        return self._apply(ops.add, self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._apply(ops.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._apply(ops.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return self._apply(ops.multiply, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._apply(ops.true_divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._apply(ops.true_divide, other, self)

    def __pow__(self, other: Any) -> Any:
        return self._apply(ops.power, self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._apply(ops.power, other, self)

    def __neg__(self) -> Any:
        return self._apply(ops.negative, self)

    def __lt__(self, other: Any) -> Any:
        return self._apply(ops.less, self, other)

    def __le__(self, other: Any) -> Any:
        return self._apply(ops.less_equal, self, other)

    def __gt__(self, other: Any) -> Any:
        return self._apply(ops.greater, self, other)

    def __ge__(self, other: Any) -> Any:
        return self._apply(ops.greater_equal, self, other)

    def __eq__(self, other: object) -> Any:
        return self._apply(ops.equal, self, other)

    def __ne__(self, other: object) -> Any:
        return self._apply(ops.not_equal, self, other)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        if self.truth:
            return True
        raise TypeError("a rule may not branch on the values of tensors; use where(condition, x, y)")


class KerasNumbers:
    """The algebra on `KerasNumber`s."""

    def sqrt(self, x: KerasNumber) -> Any:
        return x._apply(ops.sqrt, x)

    def absolute(self, x: KerasNumber) -> Any:
        return x._apply(ops.absolute, x)

    def sign(self, x: KerasNumber) -> Any:
        return self.where(x > 0, 1.0, self.where(x < 0, -1.0, 0.0))  # 0 for NaN, where some back ends give NaN

    def exp(self, x: KerasNumber) -> Any:
        return x._apply(ops.exp, x)

    def log(self, x: KerasNumber) -> Any:
        return x._apply(ops.log, x)

    def cos(self, x: KerasNumber) -> Any:
        return x._apply(ops.cos, x)

    def floor(self, x: KerasNumber) -> Any:
        return x._apply(lambda tensor: ops.cast(ops.floor(tensor), x.dtype), x)

    # On torch Keras compares float64 in float32, and gives that back. Of a number and NaN both give NaN.

    def minimum(self, x: Any, y: Any) -> Any:
        return _one_of(x, y)._apply(lambda x, y: ops.where(ops.logical_or(ops.less(x, y), ops.isnan(x)), x, y), x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        return _one_of(x, y)._apply(lambda x, y: ops.where(ops.logical_or(ops.greater(x, y), ops.isnan(x)), x, y), x, y)

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        if isinstance(condition, bool):
            return x if condition else y
        return condition._apply(ops.where, condition, x, y)

    def lerp(self, x: Any, y: Any, weight: Any) -> Any:
        return interpolated(x, y, weight)

    def total(self, x: KerasNumber) -> Any:
        return x._apply(ops.sum, x)

    # Keras takes the mean of float64 in float32 on some back ends; a sum stays what it is.

    def mean(self, x: KerasNumber) -> Any:
        return self.total(x) / math.prod(x.tensor.shape)

    def row_mean(self, x: KerasNumber) -> Any:
        return x._apply(lambda tensor: ops.sum(tensor, axis=-1, keepdims=True), x) / x.tensor.shape[-1]

    def column_mean(self, x: KerasNumber) -> Any:
        return x._apply(lambda tensor: ops.sum(tensor, axis=-2, keepdims=True), x) / x.tensor.shape[-2]


def _one_of(*numbers: Any) -> KerasNumber:
    return next(number for number in numbers if isinstance(number, KerasNumber))


register(KerasNumber, KerasNumbers())
