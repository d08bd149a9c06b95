"""How a rule's numbers are stored, for Numba kernels: random bits, and 16-bit weights with what the rounding left over.

Kernels import this module by name; it is imported only once Numba is. The codecs are those of `stepwell.codecs`, to the
bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from stepwell.codecs.noise import ROUNDS
from stepwell.machine.memory import (
    bits_of,
    from_bfloat16,
    from_float16,
    number_of_bits,
    quiet,
    to_bfloat16,
    to_bfloat16_by_chance,
    to_float16,
)

# Random bits: `stepwell.codecs.noise`.

_FACTOR_1, _FACTOR_2, _FACTOR_3 = (np.uint32(factor) for factor, _ in ROUNDS)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (np.uint32(shift) for _, shift in ROUNDS)


@numba.njit(inline="always")
def hash_of(low: Any, high: Any, element: Any) -> Any:
    """The 32-bit hash of the pair that an element belongs to, under two keys; all three are uint32."""
    x = np.uint32(np.uint32(np.uint32(element >> np.uint32(1)) ^ low) * _FACTOR_1)
    x = np.uint32(x ^ np.uint32(x >> _SHIFT_1))
    x = np.uint32(np.uint32(x ^ high) * _FACTOR_2)
    x = np.uint32(x ^ np.uint32(x >> _SHIFT_2))
    x = np.uint32(x * _FACTOR_3)
    return np.uint32(x ^ np.uint32(x >> _SHIFT_3))


@numba.njit(inline="always")
def random_bits(hashed: Any, factor: Any, element: Any) -> Any:
    """16 random bits for one of the numbers that are stored for an element, of its pair's hash."""
    product = np.uint32(hashed * np.uint32(factor))
    return np.uint32(product >> np.uint32(np.uint32(element & np.uint32(1)) << np.uint32(4))) & np.uint32(0xFFFF)


# 16-bit weights with what the rounding left over: `stepwell.codecs.rounding`.


@numba.njit(inline="always")
def from_kahan(bits: Any, error_bits: Any) -> Any:
    """float32 from bfloat16 and its rounding error, unless that is too large to be one."""
    rounded, error = from_bfloat16(bits), from_bfloat16(error_bits)
    return rounded + error if abs(error) <= np.float32(2.0**-8) * abs(rounded) else rounded


@numba.njit(inline="always")
def kahan_error(number: Any) -> Any:
    """What bfloat16 leaves over of a float32, in bfloat16, and no more than lets the sum of both round to the same."""
    bits = to_bfloat16(number)
    rounded = from_bfloat16(bits)
    error = to_bfloat16(np.float32(0.0) if abs(rounded) == np.inf else np.float32(number) - rounded)
    moves = to_bfloat16(rounded + from_bfloat16(error)) != bits
    return np.uint16(np.uint32(np.uint32(error) - np.uint32(moves)))


@numba.njit(inline="always")
def from_halves(bits: Any, remainder: Any) -> Any:
    """float32 from its upper half, rounded, and a signed remainder that leads neither below 0 nor beyond infinity."""
    size, below = np.uint32(bits) & np.uint32(0x7FFF), np.int32(np.int16(remainder))
    below = np.int32(0) if (size == 0 and below < 0) or (size == 0x7F80 and below > 0) else below
    return number_of_bits(np.uint32(np.uint32(np.uint32(bits) << np.uint32(16)) + np.uint32(below)))


@numba.njit(inline="always")
def upper_half(number: Any) -> Any:
    """bfloat16 from float32, rounded to nearest, ties away from zero; NaN stays NaN if it is `quiet`."""
    return to_bfloat16_by_chance(number, np.uint32(0x8000))


@numba.njit(inline="always")
def lower_half(number: Any) -> Any:
    """What `upper_half` leaves over."""
    return np.uint16(bits_of(number))


@numba.njit(inline="always")
def to_24_bits(number: Any, random: Any) -> Any:
    """The float32, rounded to its upper 24 bits: up where the upper 8 of 16 random bits carry over; NaN stays NaN if it
    is `quiet`."""
    carried = np.uint32(bits_of(number) + np.uint32(np.uint32(random) >> np.uint32(8)))
    return number_of_bits(np.uint32(carried & np.uint32(0xFFFFFF00)))


@numba.njit(inline="always")
def third_byte(number: Any) -> Any:
    """What `upper_half` leaves over of 24 bits."""
    return np.uint8(np.uint32(bits_of(number) >> np.uint32(8)))


@numba.njit(inline="always")
def wide_remainder(byte: Any) -> Any:
    """What `upper_half` leaves over, of 16 bits, from a byte."""
    return np.uint16(np.uint32(np.uint32(byte) << np.uint32(8)))


@numba.njit(inline="always")
def from_bfloat16_with_master(bits: Any, master: Any) -> Any:
    """The master, unless its bfloat16 has been overwritten."""
    rounded = from_bfloat16(bits)
    return np.float32(master) if from_bfloat16(to_bfloat16(master)) == rounded else rounded


@numba.njit(inline="always")
def from_float16_with_master(bits: Any, master: Any) -> Any:
    """The master, unless its float16 has been overwritten."""
    rounded = quiet(from_float16(bits))
    return np.float32(master) if from_float16(to_float16(master)) == rounded else rounded
