"""A NumPy or JAX array as a number: schedules that are drawn, schedules and rules under `jax.jit`."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from stepwell.algebra.kinds import Kind


class Arrays:
    """The algebra on the arrays of one library that follows NumPy's names."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def sqrt(self, x: Any) -> Any:
        return self._library.sqrt(x)

    def absolute(self, x: Any) -> Any:
        return self._library.abs(x)

    def sign(self, x: Any) -> Any:
        return (x > 0) * 1.0 - (x < 0) * 1.0  # 0 for NaN, where the libraries give NaN

    def exp(self, x: Any) -> Any:
        return self._library.exp(x)

    def log(self, x: Any) -> Any:
        return self._library.log(x)

    def cos(self, x: Any) -> Any:
        return self._library.cos(x)

    def floor(self, x: Any) -> Any:
        return self._library.floor(x)

    def minimum(self, x: Any, y: Any) -> Any:
        return self._library.minimum(x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        return self._library.maximum(x, y)

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        return self._library.where(condition, x, y)

    def lerp(self, x: Any, y: Any, weight: Any) -> Any:
        return x + weight * (y - x)

    def total(self, x: Any) -> Any:
        return self._library.sum(x)

    def mean(self, x: Any) -> Any:
        return self._library.mean(x)

    def row_mean(self, x: Any) -> Any:
        return self._library.mean(x, axis=-1, keepdims=True)

    def column_mean(self, x: Any) -> Any:
        return self._library.mean(x, axis=-2, keepdims=True)


_LIBRARIES = {"numpy": "numpy", "jax": "jax.numpy", "jaxlib": "jax.numpy"}
_KINDS: dict[str, Arrays] = {}


def kind_for(root: str) -> Kind:
    """The kind for the arrays of the library whose types live in the module `root`."""
    name = _LIBRARIES[root]
    if name not in _KINDS:
        _KINDS[name] = Arrays(importlib.import_module(name))
    return _KINDS[name]
