"""A list of tensors as a number: each operation is one `torch._foreach_*` call, on any device that torch knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.algebra.kinds import interpolated, kind_of, register
from stepwell.algebra.tensors import from_nearer

_TENSORS: Any = kind_of(torch.empty(0))


class TensorList:
    """Tensors that go through the same arithmetic together. Operations return new lists and change none.

    Args:
        tensors: all of one dtype.
        dtype: what is computed in. Conditions remember it: `where` makes it of two plain numbers. None says float64.
    """

    __slots__ = ("dtype", "tensors")

    def __init__(self, tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> None:
        self.tensors = list(tensors)
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"TensorList({len(self.tensors)} tensors)"

    def with_tensors(self, tensors: Sequence[Tensor], *others: Any) -> TensorList:
        """What comes of arithmetic on this list and others: a list of these tensors."""
        return TensorList(tensors, self.dtype)

    def _binary(self, operation: Callable[..., Any], other: Any) -> Any:
        if not isinstance(other, (TensorList, int, float)):
            return NotImplemented
        tensors = other.tensors if isinstance(other, TensorList) else other
        return self.with_tensors(operation(self.tensors, tensors), other)

    def __add__(self, other: Any) -> Any:
        return self._binary(torch._foreach_add, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._binary(torch._foreach_sub, other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        return self._binary(torch._foreach_mul, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._binary(torch._foreach_div, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.with_tensors(torch._foreach_reciprocal(self.tensors)) * other

    def __pow__(self, other: Any) -> Any:
        return self._binary(torch._foreach_pow, other)

    def __rpow__(self, other: Any) -> Any:
        return self.with_tensors(torch._foreach_pow(other, self.tensors))

    def __neg__(self) -> Any:
        return self.with_tensors(torch._foreach_neg(self.tensors))

    # torch has no foreach comparisons: these go tensor by tensor.
    def __lt__(self, other: Any) -> Any:
        return _each(torch.lt, self, other)

    def __le__(self, other: Any) -> Any:
        return _each(torch.le, self, other)

    def __gt__(self, other: Any) -> Any:
        return _each(torch.gt, self, other)

    def __ge__(self, other: Any) -> Any:
        return _each(torch.ge, self, other)

    def __eq__(self, other: object) -> Any:
        return _each(torch.eq, self, other)

    def __ne__(self, other: object) -> Any:
        return _each(torch.ne, self, other)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("a rule may not branch on the values of tensors; use where(condition, x, y)")


def _each(operation: Callable[..., Tensor], *arguments: Any) -> TensorList:
    """The operation on each tensor in turn; plain numbers go along with every one."""
    first = next(a for a in arguments if isinstance(a, TensorList))
    columns = [a.tensors if isinstance(a, TensorList) else [a] * len(first.tensors) for a in arguments]
    return first.with_tensors([operation(*row) for row in zip(*columns, strict=True)], *arguments)


class Lists:
    """The algebra on `TensorList`s."""

    def sqrt(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_sqrt(x.tensors))

    def absolute(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_abs(x.tensors))

    def sign(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_sign(x.tensors))

    def exp(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_exp(x.tensors))

    def log(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_log(x.tensors))

    def cos(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_cos(x.tensors))

    def floor(self, x: TensorList) -> TensorList:
        return x.with_tensors(torch._foreach_floor(x.tensors))

    def minimum(self, x: Any, y: Any) -> TensorList:
        return _extreme(torch._foreach_clamp_max, x, y)

    def maximum(self, x: Any, y: Any) -> TensorList:
        return _extreme(torch._foreach_clamp_min, x, y)

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        if isinstance(condition, bool):
            return x if condition else y
        if condition.dtype is not None and not isinstance(x, TensorList) and not isinstance(y, TensorList):
            x = torch.full((), x, dtype=condition.dtype, device=condition.tensors[0].device)
        return _each(_TENSORS.where, condition, x, y)

    def lerp(self, x: Any, y: Any, weight: Any) -> Any:
        lists = isinstance(x, TensorList) and isinstance(y, TensorList)
        if lists and isinstance(weight, (int, float)) and x.tensors[0].dtype == y.tensors[0].dtype:
            return x.with_tensors(torch._foreach_lerp(*from_nearer(x.tensors, y.tensors, weight)), y)
        return interpolated(x, y, weight)

    def total(self, x: TensorList) -> TensorList:
        return _each(_TENSORS.total, x)

    def mean(self, x: TensorList) -> TensorList:
        return _each(_TENSORS.mean, x)

    def row_mean(self, x: TensorList) -> TensorList:
        return _each(_TENSORS.row_mean, x)

    def column_mean(self, x: TensorList) -> TensorList:
        return _each(_TENSORS.column_mean, x)


def _extreme(operation: Callable[..., Any], x: Any, y: Any) -> TensorList:
    first, second = (x, y) if isinstance(x, TensorList) else (y, x)
    bound = second.tensors if isinstance(second, TensorList) else second
    return first.with_tensors(operation(first.tensors, bound), second)


register(TensorList, Lists())
