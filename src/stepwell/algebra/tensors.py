"""A torch tensor as a number: the reference engine's, the matrices', and the plots'."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.algebra import blocked, cpu_products
from stepwell.algebra.kinds import interpolated
from stepwell.algebra.postponed import SymmetricSum


def as_tensor_like(x: Tensor | float, *others: Tensor | float) -> Tensor:
    """x as a tensor of the device and dtype of the first tensor among the others."""
    if isinstance(x, Tensor):
        return x
    like = next(other for other in others if isinstance(other, Tensor))
    dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
    return torch.full((), x, dtype=dtype, device=like.device)  # filled there: a GPU would be waited for by a copy


def _floating(x: Tensor) -> Tensor:
    """Functions of the algebra give fractions also for whole numbers (a schedule asked for a tensor of steps)."""
    return x if x.dtype.is_floating_point else x.to(torch.get_default_dtype())


def from_nearer(x: Any, y: Any, weight: float) -> tuple[Any, Any, float]:
    """What torch is to interpolate between, and how far: from y for a weight near 1, for which torch would take
    1 − weight in the tensors' dtype. In float32 1 − 0.9999 is off by 2e-4 of itself, 1 − 0.99 by less than 1e-5."""
    return (y, x, 1 - weight) if weight > 0.99 else (x, y, weight)


class Tensors:
    """The algebra on one `torch.Tensor`, in that tensor's dtype."""

    def sqrt(self, x: Tensor) -> Tensor:
        return torch.sqrt(x)

    def absolute(self, x: Tensor) -> Tensor:
        return torch.abs(x)

    def sign(self, x: Tensor) -> Tensor:
        return torch.sign(x)

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def cos(self, x: Tensor) -> Tensor:
        return torch.cos(x)

    def floor(self, x: Tensor) -> Tensor:
        return torch.floor(x)

    def minimum(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        if isinstance(x, Tensor) and isinstance(y, (int, float)) and x.dtype.is_floating_point:
            return x.clamp(max=y)  # without a tensor for y, which a GPU would wait for
        return torch.minimum(as_tensor_like(x, y), as_tensor_like(y, x))

    def maximum(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        if isinstance(x, Tensor) and isinstance(y, (int, float)) and x.dtype.is_floating_point:
            return x.clamp(min=y)
        return torch.maximum(as_tensor_like(x, y), as_tensor_like(y, x))

    def where(self, condition: Tensor | bool, x: Tensor | float, y: Tensor | float) -> Tensor | float:
        if isinstance(condition, bool):
            return x if condition else y
        if not isinstance(x, Tensor) and not isinstance(y, Tensor) and condition.device.type != "mps":
            # Of two plain numbers torch makes float32, with which a float64 rule would go on; MPS has no float64.
            x = torch.full((), x, dtype=torch.float64, device=condition.device)
        return torch.where(condition, x, y)

    def lerp(self, x: Tensor, y: Tensor, weight: Tensor | float) -> Tensor:
        if isinstance(x, Tensor) and isinstance(y, Tensor) and isinstance(weight, float) and x.dtype == y.dtype:
            return torch.lerp(*from_nearer(x, y, weight))
        found: Tensor = interpolated(x, y, weight)
        return found

    def total(self, x: Tensor) -> Tensor:
        return x.sum()

    def mean(self, x: Tensor) -> Tensor:
        return _floating(x).mean()

    def row_mean(self, x: Tensor) -> Tensor:
        return _floating(x).mean(-1, keepdim=True)

    def column_mean(self, x: Tensor) -> Tensor:
        if x.ndim < 2:
            raise ValueError(
                f"column_mean takes matrices (…, rows, cols), got shape {tuple(x.shape)}; a rule's fit(shape) may give "
                "such parameters a flag, or another rule"
            )
        return _floating(x).mean(-2, keepdim=True)

    # Of matrices.

    def either(self, condition: Tensor, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
        return first() if condition else second()

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    def product_dtype(self, x: Tensor) -> tuple[torch.dtype, bool]:
        dtype = working_dtype(x.device, x.dtype)
        return dtype, dtype != torch.bfloat16

    def add_product(self, x: Tensor, left: Tensor, right: Tensor, x_factor: float, product_factor: float) -> Tensor:
        if x.ndim == 2:
            return torch.addmm(x, left, right, beta=x_factor, alpha=product_factor)
        if x.ndim == 3:
            return torch.baddbmm(x, left, right, beta=x_factor, alpha=product_factor)
        return x_factor * x + product_factor * (left @ right)

    def symmetric_product(self, left: Tensor, right: Tensor) -> Tensor:
        if _in_tiles(left):
            tiled: Tensor = _triton_products().symmetric(left, right)
            return tiled
        if not blocked.in_blocks(left, left.dtype):
            return left @ right
        result = left.new_empty(left.shape[0], left.shape[0])
        blocked.write_symmetric(result, left, right)
        return result

    def add_symmetric_product(
        self, x: Tensor, left: Tensor, right: Tensor, x_factor: float, product_factor: float
    ) -> Tensor:
        if _in_tiles(left):
            tiled: Tensor = _triton_products().symmetric(left, right, x, x_factor, product_factor)
            return tiled
        if not blocked.in_blocks(left, x.dtype):
            return self.add_product(x, left, right, x_factor, product_factor)
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        blocked.write_symmetric(result, left, right, x, x_factor, product_factor)
        return result

    def lerp_gram(self, average: Tensor, x: Tensor, weight: float) -> Tensor:
        # Where x is larger, to keep it until the sum is asked for would take more than a copy of the average.
        square = (x.shape[-2], x.shape[-2])
        if blocked.in_blocks(x, average.dtype) and x.shape[-1] <= x.shape[-2] and average.shape == square:
            return SymmetricSum(average, x, x.mT, 1 - weight, weight)
        return self.add_symmetric_product(average, x, x.mT, 1 - weight, weight)

    def lerp_rough_gram(self, average: Tensor, x: Tensor, weight: float) -> Tensor:
        rough = self.product_dtype(x)[0]
        return self.lerp_gram(average, x.to(rough) if cpu_products.serves(x, rough, average.dtype) else x, weight)

    def identity(self, x: Tensor) -> Tensor:
        return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(x.shape)

    def filled(self, x: Tensor, number: float) -> Tensor:
        return torch.full_like(x, number)

    def row_total(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True)

    def column_total(self, x: Tensor) -> Tensor:
        return x.sum(-2, keepdim=True)

    def frobenius(self, x: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.matrix_norm(x, keepdim=True)
        return norms

    def largest(self, x: Tensor) -> Tensor:
        return x.amax((-2, -1), keepdim=True)

    def is_finite(self, x: Tensor) -> Tensor:
        return x.isfinite().flatten(-2).all(-1)[..., None, None]

    def places_of_largest(self, x: Tensor) -> Tensor:
        return x.argmax(-2, keepdim=True)

    def descending(self, x: Tensor) -> Tensor:
        return x.argsort(-1, descending=True)

    def move_axis(self, x: Tensor, axis: int, to: int) -> Tensor:
        return x.movedim(axis, to)

    def take_along(self, x: Tensor, places: Tensor, axis: int) -> Tensor:
        if x.ndim == 2 and places.numel() == places.shape[axis]:
            return x.index_select(axis, places.reshape(-1))  # which needs no place for every number
        return torch.take_along_dim(x, places, axis)

    def join_rows(self, blocks: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(blocks), dim=-2)

    def orthonormal_columns(self, x: Tensor) -> Tensor:
        if blocked.in_panels(x):
            return blocked.orthonormal_columns(x)
        reflections, scales = torch.geqrf(x)  # torch.linalg.qr makes R besides
        q: Tensor = torch.linalg.householder_product(reflections, scales)
        return q * blocked.signs(reflections.diagonal(dim1=-2, dim2=-1))[..., None, :]

    def eigh(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(x)
        return values.flip(-1), vectors.flip(-1)

    def solve_lower(self, factor: Tensor, x: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.solve_triangular(factor, x, upper=False)
        return solution

    def upper_triangle(self, x: Tensor) -> Tensor:
        return x.triu()

    def broadcast(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.expand(tuple(shape))

    def whole_numbers(self, like: Tensor, start: int, count: int) -> Tensor:
        return torch.arange(start, start + count, dtype=torch.int64, device=like.device)


# Rows from which a GPU leaves out what is mirrored: of 8×8 tiles 36 are worked out. Counted, not measured.
MIRRORED = 1024


def _in_tiles(left: Tensor) -> bool:
    """Whether a symmetric product is worked out by a kernel of ours, tile by tile, on a GPU that they fill: in 16 bits,
    for in 32 the tensor cores would round. Sides are multiples of 16, from which Triton knows that rows begin at whole
    words: otherwise it would load number by number."""
    if left.device.type != "cuda" or left.dtype.itemsize != 2 or left.ndim > 3:
        return False
    rows, inner = left.shape[-2:]
    if rows < MIRRORED or rows % 16 or inner % 16:
        return False
    in_a_row = -(-rows // 128)
    tiles = in_a_row * (in_a_row + 1) // 2 * (left.shape[0] if left.ndim == 3 else 1)
    enough = torch.cuda.get_device_properties(left.device).multi_processor_count
    return tiles >= enough and _triton_products() is not None


@functools.cache
def _triton_products() -> Any:
    """The module of these kernels, or None where Triton is not there."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("stepwell.algebra.triton_products")


def working_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which to multiply matrices of `dtype` on `device` when precision is not what counts."""
    if dtype == torch.float64:
        return dtype
    return torch.bfloat16 if _bfloat16_is_fast(device.type) else torch.float32


@functools.cache
def _bfloat16_is_fast(device_type: str) -> bool:
    """Whether this device multiplies matrices of bfloat16 faster than those of float32.

    A CPU does with AMX's tiles. With AVX-512's dot products AMD's do (from Zen 4 on; measured: 410 GFLOP/s against
    190), Intel's do not (169 against 268). Without either it takes up to fifty times as long.
    """
    if device_type != "cpu" or torch.cpu._is_amx_tile_supported():
        return True
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    return bool(found.get("avx512_bf16")) and str(found.get("cpu_name", "")).startswith("AMD")


_TENSORS: Any = Tensors()


def kind_for(root: str) -> Any:
    """The kind for tensors (`root` is the name of the library that was asked for)."""
    assert root == "torch"
    return _TENSORS
