"""State in blocks, for Numba kernels: codes to float32 numbers and back, as in `stepwell.codecs.blocks`, to the bit.

A rule's loop reads codes of 8 bits itself; those of 4 are made numbers in a local array before it. What it stores it
leaves in such an array, with the largest, and it is made codes after it. Each loop here goes over one block and fills
vector registers: it begins at 0 (Numba asks of other loops whether they count from the end), takes whole numbers of 32
bits, and no branch.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from stepwell.codecs.blocks import BLOCK, SMALLEST, Blocks
from stepwell.engines.fused.stored import hash_of
from stepwell.machine.memory import (
    bits_of,
    float32_at,
    local_words,
    number_of_bits,
    uint8_at,
    uint16_at,
    uint32_at,
    widest_vectors,
)

_WIDTH, _SMALLEST_BITS = np.int64(BLOCK), np.float32(SMALLEST).view(np.int32)

_jit = numba.njit(error_model="numpy", nogil=True)
_inlined = numba.njit(error_model="numpy", nogil=True, inline="always")

# A block of new 32-bit numbers on the stack.
local_array = local_words(BLOCK)


@_jit
def draw(low: Any, high: Any, first: Any, hashes_at: Any, size: Any) -> None:
    """Write the hashes of all pairs that a block's elements belong to; `first` is the place of the first of these."""
    widest_vectors()
    pairs = (np.int64(size) + np.int64(first & np.uint32(1)) + 1) // 2
    hashes = numba.carray(uint32_at(hashes_at), pairs)
    for i in range(pairs):
        hashes[i] = hash_of(low, high, np.uint32(first + np.uint32(2 * i)))


@_jit
def multiply(hashes_at: Any, factor: Any, bits_at: Any, size: Any) -> None:
    """Write what another number has for random bits where the first has the hashes of `draw`."""
    widest_vectors()
    pairs = np.int64(size) // 2 + 1
    hashes, bits = numba.carray(uint32_at(hashes_at), pairs), numba.carray(uint32_at(bits_at), pairs)
    for i in range(pairs):
        bits[i] = np.uint32(hashes[i] * factor)


@_jit
def halve_elements(halves_at: Any, size: Any) -> None:
    """In place of random bits, what rounds to the nearest."""
    halves = numba.carray(uint16_at(halves_at), size)
    for i in range(size):
        halves[i] = np.uint16(0x8000)


# What a codec says of its codes, as numbers of 32 bits.


def _number_of(codec: Blocks) -> Any:
    """From a code and a factor (the block's largest number over the span of z) to the number."""
    first, shift = np.uint32(codec.first), np.uint32(codec.shift)
    epsilon, sign, up = np.float32(codec.epsilon), np.uint32(1 << 31), np.uint32(8 - codec.bits)
    rest = np.uint32((codec.codes - 1) << codec.shift)

    @numba.njit(inline="always")
    def unsigned(code: Any, factor: Any) -> Any:
        return (number_of_bits(np.uint32(np.uint32(code << shift) | first)) - epsilon) * factor

    @numba.njit(inline="always")
    def signed(code: Any, factor: Any) -> Any:
        # The sign is stretched over the upper bits, where it stands already when the rest has been worked out.
        bits = np.uint32(np.int32(np.int8(np.uint8(code << up))) >> up)
        x = (number_of_bits(np.uint32(np.uint32(np.uint32(bits << shift) & rest) | first)) - epsilon) * factor
        return number_of_bits(np.uint32(bits_of(x) | np.uint32(bits & sign)))

    return unsigned if codec.positive else signed


def _code_of(codec: Blocks) -> Any:
    """From a number, a factor (the spread of z over the block's largest number), random bits and what they are added to
    (the bits of ε, without what stands for bits below them) to the code."""
    shift = np.uint32(codec.shift)
    epsilon, codes, sign = np.float32(codec.epsilon), np.uint32(codec.codes - 1), np.uint32(codec.codes)
    to_the_top, rest, zero = np.uint32(32 - codec.bits), np.uint32(0x7FFFFFFF), np.float32(0.0)
    one = np.uint32(1)

    @numba.njit(inline="always")
    def cut(r: Any, random: Any, first: Any) -> Any:
        z = np.uint32(bits_of(r + epsilon) - first)
        return np.uint32(np.uint32(z + random) >> shift)

    @numba.njit(inline="always")
    def unsigned(x: Any, factor: Any, random: Any, first: Any) -> Any:
        x = x if x > zero else zero
        return max(min(cut(x * factor, random, first), codes), min(bits_of(x), one))

    @numba.njit(inline="always")
    def signed(x: Any, factor: Any, random: Any, first: Any) -> Any:
        bits = bits_of(x)
        code = cut(number_of_bits(np.uint32(bits & rest)) * factor, random, first)
        return np.uint32(np.uint32(code & codes) | np.uint32(np.uint32(bits >> to_the_top) & sign))

    return unsigned if codec.positive else signed


# The largest absolute value of a block, as the bits of a float: they keep the order of the numbers.


@numba.njit(inline="always")
def least() -> Any:
    """What the largest is taken for at least."""
    return _SMALLEST_BITS


@numba.njit(inline="always")
def larger(largest: Any, number: Any) -> Any:
    """The larger of what was found and a number."""
    return max(largest, np.int32(bits_of(number) & np.uint32(0x7FFFFFFF)))


@numba.njit(inline="always")
def _scale_of(largest: Any) -> Any:
    """The number of these bits; NaN where one of the block was not finite."""
    return number_of_bits(np.uint32(largest)) if largest < np.int32(0x7F800000) else np.float32(np.nan)


def _share(codec: Blocks) -> Any:
    """`share(scale)`: the factor of a block's codes; `scale` is an address."""
    share = np.float32(1 / codec.span)

    @numba.njit(inline="always")
    def share_of(scale_at: Any) -> Any:
        return numba.carray(float32_at(scale_at), 1)[0] * share

    return share_of


def _decoder(codec: Blocks) -> Any:
    """`decode(codes, factor, numbers)` for a block in 4 bits, which it fills up; codes and numbers are addresses."""
    number_of, half = _number_of(codec), np.int64(BLOCK // 2)

    @_jit
    def decode(codes_at: Any, factor: Any, numbers_at: Any) -> None:
        widest_vectors()
        codes, numbers = numba.carray(uint8_at(codes_at), half), numba.carray(float32_at(numbers_at), half)
        others = numba.carray(float32_at(numbers_at + 4 * half), half)
        for i in range(half):
            code = np.uint32(codes[i])
            numbers[i] = number_of(np.uint32(code & np.uint32(15)), factor)
            others[i] = number_of(np.uint32(code >> np.uint32(4)), factor)

    return decode


def _encoder(codec: Blocks) -> Any:
    """`encode(numbers, largest, codes, scale, halves, by_chance, size)` for a block, or for the rest that is the last
    one; numbers, codes, scale and random bits, 16 each, are addresses.
    """
    code_of = _code_of(codec)
    spread, half = np.float32(codec.spread), np.int64(BLOCK // 2)
    # The upper 16 of the bits that are cut off.
    up = np.uint32(codec.shift - 16)
    exactly, below = np.uint32(codec.first), np.uint32(codec.first - codec.below)

    @_inlined
    def random(half: Any) -> Any:
        return np.uint32(np.uint32(half) << up)

    @_inlined
    def bytes_each(numbers_at: Any, codes_at: Any, halves_at: Any, spread: Any, first: Any, size: Any) -> None:
        numbers, codes = numba.carray(float32_at(numbers_at), size), numba.carray(uint8_at(codes_at), size)
        halves = numba.carray(uint16_at(halves_at), size)
        for i in range(size):
            codes[i] = np.uint8(code_of(numbers[i], spread, random(halves[i]), first))

    @_inlined
    def halves_of_bytes(numbers_at: Any, codes_at: Any, halves_at: Any, spread: Any, first: Any, size: Any) -> None:
        fill = numba.carray(float32_at(numbers_at), _WIDTH)
        for i in range(size, _WIDTH):
            fill[i] = 0.0
        numbers, halves = numba.carray(float32_at(numbers_at), half), numba.carray(uint16_at(halves_at), half)
        others = numba.carray(float32_at(numbers_at + 4 * half), half)
        other_halves = numba.carray(uint16_at(halves_at + 2 * half), half)
        codes = numba.carray(uint8_at(codes_at), half)
        for i in range(half):
            lower = np.uint32(code_of(numbers[i], spread, random(halves[i]), first))
            upper = np.uint32(code_of(others[i], spread, random(other_halves[i]), first))
            codes[i] = np.uint8(np.uint32(lower | np.uint32(upper << np.uint32(4))))

    store_block = bytes_each if codec.bits == 8 else halves_of_bytes

    @_inlined
    def encode(
        numbers_at: Any, largest: Any, codes_at: Any, scale_at: Any, halves_at: Any, by_chance: Any, size: Any
    ) -> None:
        scale = _scale_of(largest)
        numba.carray(float32_at(scale_at), 1)[0] = scale
        store_block(numbers_at, codes_at, halves_at, spread / scale, below if by_chance else exactly, size)

    return encode


_S8, _U8, _S4, _U4 = (Blocks(bits, positive) for bits in (8, 4) for positive in (False, True))
number_8bit_signed, share_8bit_signed, encode_8bit_signed = _number_of(_S8), _share(_S8), _encoder(_S8)
number_8bit_unsigned, share_8bit_unsigned, encode_8bit_unsigned = _number_of(_U8), _share(_U8), _encoder(_U8)
decode_4bit_signed, share_4bit_signed, encode_4bit_signed = _decoder(_S4), _share(_S4), _encoder(_S4)
decode_4bit_unsigned, share_4bit_unsigned, encode_4bit_unsigned = _decoder(_U4), _share(_U4), _encoder(_U4)
