"""Symmetric products of matrices on a CPU by a kernel of ours (`stepwell.algebra.numba_products`): for half the work,
and of bfloat16 also in float32, in which torch gives none.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from stepwell.machine.threads import run_in_threads

if TYPE_CHECKING:
    from stepwell.machine.code import Code

# Rows from which the kernel is faster than the whole product: measured with two threads.
LEAST = 384
# What the kernel is told, each an int64; `_at` ends what is an address, `_row` the bytes from row to row, `_step` those
# from number to number. The counters are of the blocks and of the seats that have been taken; a seat is where a thread
# keeps what it works on.
FIELDS = (
    "counters_at", "rows", "inner", "edge", "seats_at", "x_at", "x_row", "out_at", "out_row", "factors_at",
    "left_at", "left_row", "left_step", "right_at", "right_row", "right_step",
)  # fmt: skip
# Stripes of the largest block, which a core's second cache holds with what it is made of; vectors of a stripe; and
# words of a row that are multiplied at a time: those of a stripe fit into a core's first cache.
_LARGEST_EDGE, VECTORS, WORDS = 4, 3, 128

_LOG = logging.getLogger("stepwell")


def serves(left: Tensor, taken: torch.dtype, given: torch.dtype) -> bool:
    """Whether the kernel works out symmetric products of matrices like `left`, of the first dtype, in the second, and
    is faster than torch."""
    return (
        type(left) in (Tensor, Parameter)
        and left.device.type == "cpu"
        and left.ndim == 2
        and left.shape[0] >= LEAST
        and left.shape[1] > 0
        and not (left.requires_grad and torch.is_grad_enabled())
        and (taken == given or (taken, given) == (torch.bfloat16, torch.float32))
        and _kernel(taken, given) is not None
    )


def write_symmetric(
    out: Tensor, left: Tensor, right: Tensor, x: Tensor | None = None, x_factor: float = 1.0, factor: float = 1.0
) -> None:
    """Write x_factor·x + factor·left·right, which the caller knows to be symmetric, added up in float32.

    The numbers are the same whatever the threads.

    Args:
        out: (rows, rows), of a dtype that is served, each row without gaps; x itself, or other memory.
        left: (rows, inner).
        right: (inner, rows), of the dtype of `left`.
        x: symmetric, (rows, rows), of the dtype of `out`; none by default.
        x_factor: what x is multiplied with.
        factor: what the product is multiplied with.
    """
    kernel = _kernel(left.dtype, out.dtype)
    assert kernel is not None
    left, right = _in_rows_or_columns(left), _in_rows_or_columns(right.mT)
    x = x if x is None or x.stride(1) == 1 else x.contiguous()
    threads = torch.get_num_threads()
    edge, blocks = _edge(len(left), VECTORS * _lanes(), threads)
    threads = min(threads, blocks)
    # A seat has the sums of a block, and the panels of what is multiplied.
    seats = torch.empty(threads, edge * (edge + 2 * WORDS), dtype=torch.int32, device=left.device)
    factors = np.array([x_factor, factor], dtype=np.float32)
    counters = np.zeros(2, dtype=np.int64)
    numbers = (
        *(counters.ctypes.data, *left.shape, edge, seats.data_ptr()),
        *((0, 0) if x is None else (x.data_ptr(), x.element_size() * x.stride(0))),
        *(out.data_ptr(), out.element_size() * out.stride(0), factors.ctypes.data),
        *(left.data_ptr(), *(left.element_size() * stride for stride in left.stride())),
        *(right.data_ptr(), *(right.element_size() * stride for stride in right.stride())),
    )
    frame = np.array(numbers, dtype=np.int64)
    run_in_threads(kernel.run, frame.ctypes.data, threads)


def _edge(rows: int, stripe: int, threads: int) -> tuple[int, int]:
    """The largest blocks of which each thread has a few, so that all are done at about the same time; and how many."""
    for stripes in range(_LARGEST_EDGE, 0, -1):
        in_a_row = -(-rows // (stripes * stripe))
        blocks = in_a_row * (in_a_row + 1) // 2
        if blocks >= 4 * threads:
            break
    return stripes * stripe, blocks


def _in_rows_or_columns(x: Tensor) -> Tensor:
    """x where its numbers follow each other in each row, or in each column; else a copy."""
    return x if 1 in x.stride() else x.contiguous()


_SOURCE = '''"""Symmetric products of {taken} matrices, which are {given}: panels of {lanes} rows."""

from stepwell.algebra.numba_products import runner

run = runner({lanes}, from_pairs={from_pairs}, to_halves={to_halves})
'''
_HERE = Path(__file__)
_IMPORTED = (_HERE, _HERE.with_name("numba_products.py"), _HERE.parents[1] / "machine" / "vectors.py")


@functools.cache
def _lanes() -> int:
    """Words of a vector register; 0 on processors that the kernel is not written for, or where there is no LLVM."""
    if importlib.util.find_spec("llvmlite") is None:
        return 0
    from stepwell.machine.code import lanes

    return lanes()


@functools.cache
def _kernel(taken: torch.dtype, given: torch.dtype) -> Code | None:
    """The kernel for matrices of the first dtype and products of the second, or None where there is none."""
    from_pairs, to_halves = taken == torch.bfloat16, given == torch.bfloat16
    if not _lanes() or taken not in (torch.float32, torch.bfloat16):
        return None
    from stepwell.machine.code import Code, multiplies_pairs

    # Tiles of AMX, which torch's products take, are many times faster than pairs.
    if from_pairs and (torch.cpu._is_amx_tile_supported() or not multiplies_pairs()):
        return None
    flags = {"from_pairs": from_pairs, "to_halves": to_halves}
    source = _SOURCE.format(taken=taken, given=given, lanes=_lanes(), **flags)
    try:
        return Code("symmetric_product", source, _IMPORTED)
    except RuntimeError as error:
        problem = str(error).partition(";")[0]  # what follows is for those who need the kernel
        _LOG.warning("torch works symmetric products of matrices out, not a kernel of stepwell's: %s", problem)
        return None
