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
            self._whole = torch.empty_like(self._x, memory_format=torch.contiguous_format)
            blocked.write_symmetric(self._whole, *self._product, self._x, *self._factors)
        return self._whole

    @property
    def read(self) -> tuple[Tensor, ...]:
        """What it will be worked out of, if it has not been."""
        return (self._x, *self._product) if self._whole is None else (self._whole,)

    def adds_to(self, x: Any) -> bool:
        """Whether it can be worked out in x's own place."""
        return self._whole is None and self._x is x and not any(_memory(x) & _memory(each) for each in self._product)

    def write_to(self, place: Tensor) -> None:
        """Write the sum there, which `in_turn` has said it may wait for: in place, where x stands there."""
        if self._whole is None and _is_same(self._x, place):
            blocked.write_symmetric(self._x, *self._product, self._x, *self._factors)
        else:
            place.copy_(self.whole.reshape(place.shape))

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


def in_turn(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """New values in an order in which they can be written over the old ones, of which all of them are made.

    A sum waits to be written only where nothing else is made of what it is written over.
    """
    read = {
        name: frozenset().union(*map(_memory, value.read)) if isinstance(value, SymmetricSum) else _memory(value)
        for name, value in new.items()
    }
    waiting = {
        name: value
        for name, value in new.items()
        if isinstance(value, SymmetricSum)
        and value.adds_to(old[name])
        and not any(_memory(old[name]) & read[other] for other in new if other != name)
    }
    others: dict[str, Any] = {}
    written: frozenset[int] = frozenset()
    for name, value in new.items():
        if name not in waiting:
            value = value.whole if isinstance(value, SymmetricSum) else value
            others[name] = 1.0 * value if _memory(value) & written else value  # a copy of what another number was
            written |= _memory(old[name])
    return {**waiting, **others}


def _memory(number: Any) -> frozenset[int]:
    """What says where a number is stored: two that have it in common may share memory."""
    return frozenset([number.untyped_storage()._cdata if isinstance(number, Tensor) else id(number)])


def _is_same(x: Tensor, y: Tensor) -> bool:
    """Whether these are the same numbers in memory, in the same order."""
    return bool(
        _memory(x) == _memory(y)
        and (x.dtype, x.numel(), x.storage_offset()) == (y.dtype, y.numel(), y.storage_offset())
        and x.is_contiguous()
        and y.is_contiguous()
    )
