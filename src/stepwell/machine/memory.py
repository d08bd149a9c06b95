"""What a Numba kernel needs to work on memory: arrays over addresses, and floats of 16 bits in them.

Kernels import this module by name; it is imported only once Numba is. Numba makes 64 bits of every sum of two whole
numbers, which halves what a vector register holds: so each is cut down to 32 again at once.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
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
uint32_at = _pointer(types.uint32)
uint8_at = _pointer(types.uint8)
int64_at = _pointer(types.int64)

_LINE = 64  # bytes of a line of the cache


def local_words(count: int) -> Any:
    """An intrinsic that gives the address of so many 32-bit numbers on the stack, which each of its calls has alone."""

    @intrinsic
    def local(typing_context: Any) -> Any:
        del typing_context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del context, signature, arguments
            place = cgutils.alloca_once(builder, ir.IntType(32), size=ir.Constant(ir.IntType(32), count))
            return builder.ptrtoint(place, ir.IntType(64))

        return types.int64(), generate

    return local


@intrinsic
def next_chunk(typing_context: Any, counter: Any) -> Any:
    """The number of the next chunk that no thread has taken: reads the counter and adds one to it, at once."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.atomic_rmw("add", arguments[0], ir.IntType(64)(1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def place_of(typing_context: Any, array: Any, index: Any) -> Any:
    """The address of an item of an array, which may lie beyond its end."""
    del typing_context, index

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(builder.gep(held.data, [arguments[1]]), ir.IntType(64))

    return types.int64(array, types.int64), generate


@intrinsic
def _fetch_line(typing_context: Any, address: Any) -> Any:
    """Ask for the line of the cache that holds this address; nobody waits for it, and no address is wrong."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        to_read, nearest, data = number(0), number(3), number(1)
        builder.call(prefetch, [builder.inttoptr(arguments[0], pointer), to_read, nearest, data])
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(address), generate


@numba.njit(error_model="numpy", nogil=True, inline="always")
def fetch(address: Any, size: Any) -> None:
    """Ask for so many bytes of memory, which will be needed soon."""
    for at in range(0, size, _LINE):
        _fetch_line(address + at)


# Processors before Ice Lake and Zen 4 lower their clock for registers of 512 bits.
_WIDEST = 512 if llvm.get_host_cpu_features().get("avx512vbmi2", False) else 0


@intrinsic
def widest_vectors(typing_context: Any) -> Any:
    """Let the loops of this function fill the widest registers, where the processor works with them at full speed.

    Left alone, LLVM fills those of 256 bits. A loop that waits for the memory is a few hundredths faster with wide
    ones, because more of what it waits for is under way at a time; one that computes, more than that.
    """
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature, arguments
        if _WIDEST:  # llvmlite's own `add` knows no such words
            set.add(builder.function.attributes, f'"prefer-vector-width"="{_WIDEST}"')
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(), generate


@intrinsic
def add_up(typing_context: Any, total: Any, number: Any) -> Any:
    """total + number, in whatever order pays: so a sum is spread over the lanes of a vector."""
    del typing_context, number

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.fadd(*arguments, flags=("nsz", "reassoc"))

    return total(total, total), generate


@intrinsic
def add_up_product(typing_context: Any, total: Any, x: Any, y: Any) -> Any:
    """total + x·y, in whatever order pays, and with one rounding where the processor has an instruction for it."""
    del typing_context, x, y

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        product = builder.fmul(arguments[1], arguments[2], flags=("contract",))
        return builder.fadd(arguments[0], product, flags=("nsz", "reassoc", "contract"))

    return total(total, total, total), generate


@intrinsic
def bits_of(typing_context: Any, number: Any) -> Any:
    """The bits of a float32."""
    del typing_context, number

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def number_of_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 of these bits."""
    del typing_context, bits

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


# Two numbers of 16 bits in a word of 32.


@numba.njit(inline="always")
def lower_of(pair: Any) -> Any:
    """The first of two."""
    return np.uint16(pair)


@numba.njit(inline="always")
def upper_of(pair: Any) -> Any:
    """The second of two."""
    return np.uint16(np.uint32(pair >> np.uint32(16)))


@numba.njit(inline="always")
def pair_of(lower: Any, upper: Any) -> Any:
    """Both together."""
    return np.uint32(np.uint32(lower) | np.uint32(np.uint32(upper) << np.uint32(16)))


@numba.njit(inline="always")
def quiet(number: Any) -> Any:
    """The float32, where NaN has bits that no rounding carries over into another number's."""
    return np.float32(number) if number == number else np.float32(np.nan)


@numba.njit(inline="always")
def from_bfloat16(bits: Any) -> Any:
    """float32 from bfloat16: its upper half."""
    return number_of_bits(np.uint32(np.uint32(bits) << np.uint32(16)))


@numba.njit(inline="always")
def to_bfloat16(number: Any) -> Any:
    """bfloat16 from float32, rounded to nearest, ties to even; NaN stays NaN if it is `quiet`."""
    bits = bits_of(number)
    last = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + last)
    return np.uint16(np.uint32(rounded >> np.uint32(16)))


@numba.njit(inline="always")
def to_bfloat16_by_chance(number: Any, random: Any) -> Any:
    """bfloat16 from float32, rounded up where 16 random bits carry over; NaN stays NaN if it is `quiet`."""
    return np.uint16(np.uint32(np.uint32(bits_of(number) + random) >> np.uint32(16)))


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
