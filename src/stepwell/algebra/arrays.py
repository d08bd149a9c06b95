"""A NumPy or JAX array as a number: schedules that are drawn, schedules and rules under `jax.jit`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from stepwell.algebra.kinds import Kind, interpolated


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
        return interpolated(x, y, weight)

    def total(self, x: Any) -> Any:
        return self._library.sum(x)

    def mean(self, x: Any) -> Any:
        return self._library.mean(x)

    def row_mean(self, x: Any) -> Any:
        return self._library.mean(x, axis=-1, keepdims=True)

    def column_mean(self, x: Any) -> Any:
        return self._library.mean(x, axis=-2, keepdims=True)


class JaxArrays(Arrays):
    """The algebra on JAX's arrays, whole matrices too. Conditions may be known only when the program runs."""

    def __init__(self) -> None:
        super().__init__(importlib.import_module("jax.numpy"))
        self._jax = importlib.import_module("jax")
        self._scipy_linalg = importlib.import_module("jax.scipy.linalg")

    def either(self, condition: Any, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
        return self._jax.lax.cond(condition, first, second)

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.astype(dtype)

    def product_dtype(self, x: Any) -> tuple[Any, bool]:
        if x.dtype == "float64":
            return x.dtype, True
        on_cpu = self._jax.default_backend() == "cpu"
        return self._library.float32 if on_cpu else self._library.bfloat16, on_cpu

    def add_product(self, x: Any, left: Any, right: Any, x_factor: float, product_factor: float) -> Any:
        return x_factor * x + product_factor * (left @ right)

    def symmetric_product(self, left: Any, right: Any) -> Any:
        return left @ right

    def add_symmetric_product(self, x: Any, left: Any, right: Any, x_factor: Any, product_factor: Any) -> Any:
        return self.add_product(x, left, right, x_factor, product_factor)

    def lerp_gram(self, average: Any, x: Any, weight: Any) -> Any:
        return self.add_symmetric_product(average, x, x.mT, 1 - weight, weight)

    def lerp_rough_gram(self, average: Any, x: Any, weight: Any) -> Any:
        return self.lerp_gram(average, x, weight)

    def identity(self, x: Any) -> Any:
        return self._library.broadcast_to(self._library.eye(x.shape[-1], dtype=x.dtype), x.shape)

    def filled(self, x: Any, number: float) -> Any:
        return self._library.full_like(x, number)

    def row_total(self, x: Any) -> Any:
        return self._library.sum(x, axis=-1, keepdims=True)

    def column_total(self, x: Any) -> Any:
        return self._library.sum(x, axis=-2, keepdims=True)

    def frobenius(self, x: Any) -> Any:
        return self._library.sqrt(self._library.sum(x * x, axis=(-2, -1), keepdims=True))

    def largest(self, x: Any) -> Any:
        return self._library.max(x, axis=(-2, -1), keepdims=True)

    def is_finite(self, x: Any) -> Any:
        return self._library.all(self._library.isfinite(x), axis=(-2, -1), keepdims=True)

    def places_of_largest(self, x: Any) -> Any:
        return self._library.argmax(x, axis=-2, keepdims=True)

    def descending(self, x: Any) -> Any:
        return self._library.argsort(x, axis=-1, descending=True)

    def move_axis(self, x: Any, axis: int, to: int) -> Any:
        return self._library.moveaxis(x, axis, to)

    def take_along(self, x: Any, places: Any, axis: int) -> Any:
        return self._library.take_along_axis(x, places, axis=axis)

    def join_rows(self, blocks: Sequence[Any]) -> Any:
        return self._library.concatenate(blocks, axis=-2)

    def orthonormal_columns(self, x: Any) -> Any:
        q, r = self._library.linalg.qr(x)
        diagonal = self._library.diagonal(r, axis1=-2, axis2=-1)
        return q * self.where(diagonal < 0, -1.0, 1.0).astype(q.dtype)[..., None, :]

    def eigh(self, x: Any) -> tuple[Any, Any]:
        values, vectors = self._library.linalg.eigh(x)
        return values[..., ::-1], vectors[..., ::-1]

    def solve_lower(self, factor: Any, x: Any) -> Any:
        return self._scipy_linalg.solve_triangular(factor, x, lower=True)

    def upper_triangle(self, x: Any) -> Any:
        return self._library.triu(x)

    def broadcast(self, x: Any, shape: Sequence[int]) -> Any:
        return self._library.broadcast_to(x, shape)

    def whole_numbers(self, like: Any, start: Any, count: int) -> Any:
        offset = self._library.asarray(start).astype(self._library.uint32)  # in 32 bits, which are all that is hashed
        return offset + self._library.arange(count, dtype=self._library.uint32)


_MAKERS: dict[str, Callable[[], Arrays]] = {
    "numpy": lambda: Arrays(importlib.import_module("numpy")),
    "jax": JaxArrays,
}
_ROOTS = {"numpy": "numpy", "jax": "jax", "jaxlib": "jax"}
_KINDS: dict[str, Arrays] = {}


def kind_for(root: str) -> Kind:
    """The kind for the arrays of the library whose types live in the module `root`."""
    name = _ROOTS[root]
    if name not in _KINDS:
        _KINDS[name] = _MAKERS[name]()
    return _KINDS[name]
