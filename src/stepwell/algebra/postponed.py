"""A sum that is worked out when it is asked for: in the place of what it adds to, where nothing else asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepwell.algebra import blocked

# What is known of it before it is there.
_KNOWN = [getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")]


class SymmetricSum(Tensor):
    """x_factor·x + factor·left·right, all symmetric; to the functions of torch a tensor like others.

    The average of a large matrix that a slot holds is copied twice at a step: to add to it, and to be put back.
    `write_to` does without.
    """

    _x: Tensor
    _product: tuple[Tensor, Tensor]
    _factors: tuple[float, float]
    _whole: Tensor | None

    @staticmethod
    def __new__(cls, x: Tensor, *_: Any) -> SymmetricSum:
        made: SymmetricSum = Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype, device=x.device)
        return made

    def __init__(self, x: Tensor, left: Tensor, right: Tensor, x_factor: float, factor: float) -> None:
        self._x, self._product, self._factors = x, (left, right), (x_factor, factor)
        self._whole = None

    @property
    def whole(self) -> Tensor:
        """The sum in memory of its own."""
        if self._whole is None:
            self._whole = self._x.clone()
            blocked.add_symmetric(self._whole, *self._product, *self._factors)
        return self._whole

    def write_to(self, place: Tensor) -> None:
        """Write the sum there: in place, where x stands there and it has not been worked out yet."""
        if self._whole is None and _is_same(self._x, place) and not self._multiplies(place):
            blocked.add_symmetric(place, *self._product, *self._factors)
        else:
            place.copy_(self.whole)

    def settle(self, others: Sequence[SymmetricSum]) -> None:
        """Work it out now, if one of the others is going to be written over what it multiplies."""
        if any(self._multiplies(other._x) for other in others):
            _ = self.whole

    def _multiplies(self, x: Tensor) -> bool:
        """Whether what it multiplies may share memory with x."""
        return any(_share_memory(factor, x) for factor in self._product)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if function in _KNOWN:
                return function(*args)
            return cls.__torch_dispatch__(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own stub leaves out the function
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(SymmetricSum, lambda each: each.whole, (args, dict(kwargs or {})))
        return function(*args, **kwargs)


def _is_same(x: Tensor, y: Tensor) -> bool:
    """Whether these are the same numbers in memory."""
    return (
        x.dtype == y.dtype
        and x.shape == y.shape
        and x.stride() == y.stride()
        and x.storage_offset() == y.storage_offset()
        and _share_memory(x, y)
    )


def _share_memory(x: Tensor, y: Tensor) -> bool:
    """Whether both lie in one piece of memory, there or elsewhere in it."""
    return bool(x.untyped_storage()._cdata == y.untyped_storage()._cdata)
