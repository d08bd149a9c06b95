"""What a Numba kernel needs to work on a tensor's memory: arrays over addresses, and 16-bit floats as their bits.

Kernels import this module by name; it is imported only once Numba is.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _pointer(element: Any) -> Any:
    """An intrinsic that takes an address (int64) and gives a pointer to `element`."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        del typing_context, address
        signature = types.CPointer(element)(types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


float64_at = _pointer(types.float64)
float32_at = _pointer(types.float32)
uint16_at = _pointer(types.uint16)
int64_at = _pointer(types.int64)


@intrinsic
def next_chunk(typing_context: Any, counter: Any) -> Any:
    """The number of the next chunk that no thread has taken: reads the counter and adds one to it, at once."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.atomic_rmw("add", arguments[0], ir.IntType(64)(1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def _bits(typing_context: Any, number: Any) -> Any:
    """The bits of a float32."""
    del typing_context, number

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _from_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 of these bits."""
    del typing_context, bits

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@numba.njit(inline="always")
def from_bfloat16(bits: Any) -> Any:
    """float32 from bfloat16: its upper half."""
    return _from_bits(np.uint32(bits) << np.uint32(16))


@numba.njit(inline="always")
def to_bfloat16(number: Any) -> Any:
    """bfloat16 from float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = _bits(number)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(rounded) if number == number else np.uint16(0x7FC0)


@intrinsic
def from_float16(typing_context: Any, bits: Any) -> Any:
    """float32 from float16."""
    del typing_context, bits

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def to_float16(typing_context: Any, number: Any) -> Any:
    """float16 from float32, rounded to nearest, ties to even."""
    del typing_context, number

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate
