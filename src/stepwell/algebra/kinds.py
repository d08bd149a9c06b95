"""What a number is: the registry that finds the functions which serve one kind of number.

A *kind* is anything that offers the functions of `stepwell.algebra` for one type of number: for Python floats the
`math` module does the work, for tensors torch, for a list of tensors `torch._foreach_*`, for the tracer a graph.
Nothing else in the library asks what a number is made of.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol


class Number(Protocol):
    """What a rule may do with a number, whatever it is made of."""

    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __rsub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __rtruediv__(self, other: Any, /) -> Any: ...
    def __pow__(self, other: Any, /) -> Any: ...
    def __rpow__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...


class Kind(Protocol):
    """The functions of the algebra for one kind of number."""

    def sqrt(self, x: Any, /) -> Any: ...
    def absolute(self, x: Any, /) -> Any: ...
    def sign(self, x: Any, /) -> Any: ...
    def exp(self, x: Any, /) -> Any: ...
    def log(self, x: Any, /) -> Any: ...
    def cos(self, x: Any, /) -> Any: ...
    def floor(self, x: Any, /) -> Any: ...
    def minimum(self, x: Any, y: Any, /) -> Any: ...
    def maximum(self, x: Any, y: Any, /) -> Any: ...
    def where(self, condition: Any, x: Any, y: Any, /) -> Any: ...
    def lerp(self, x: Any, y: Any, weight: Any, /) -> Any: ...
    def total(self, x: Any, /) -> Any: ...
    def mean(self, x: Any, /) -> Any: ...


_KINDS: dict[type, Kind] = {}

# Arrays of libraries that need not be installed: the root of the module that defines the type → where the kind is.
_ON_DEMAND = {
    "torch": "stepwell.algebra.tensors",
    "numpy": "stepwell.algebra.arrays",
    "jax": "stepwell.algebra.arrays",
    "jaxlib": "stepwell.algebra.arrays",
}


def register(number_type: type, kind: Kind) -> None:
    """Let numbers of `number_type` be served by `kind`."""
    _KINDS[number_type] = kind


def kind_of(*numbers: Any) -> Kind:
    """The kind that serves all of `numbers`: a plain Python number goes along with any other kind."""
    found: Kind | None = None
    for number in numbers:
        number_type = type(number)
        if number_type is float or number_type is int or number_type is bool:
            continue
        kind = _KINDS.get(number_type) or _look_up(number_type)
        if found is None:
            found = kind
        elif found is not kind:
            names = sorted({type(n).__name__ for n in numbers})
            raise TypeError(f"numbers of different kinds do not mix in one expression: {', '.join(names)}")
    return _KINDS[float] if found is None else found


def _look_up(number_type: type) -> Kind:
    for base in number_type.__mro__[1:]:
        if base in _KINDS:
            _KINDS[number_type] = _KINDS[base]
            return _KINDS[number_type]
    root = number_type.__module__.partition(".")[0]
    if root not in _ON_DEMAND:
        raise TypeError(
            f"stepwell.algebra does not know numbers of type {number_type.__module__}.{number_type.__name__}"
        )
    provide: Callable[[str], Kind] = importlib.import_module(_ON_DEMAND[root]).kind_for
    _KINDS[number_type] = provide(root)
    return _KINDS[number_type]
