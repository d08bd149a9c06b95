"""The codecs of `stepwell.codecs` for Triton kernels, to the bit.

Kernels import this module by name; it is imported only once Triton is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stepwell.codecs.blocks import BLOCK, SMALLEST
from stepwell.codecs.noise import ROUNDS
from stepwell.engines.fused.triton_memory import from_bfloat16, from_float16, to_bfloat16, to_float16

_FACTOR_1, _FACTOR_2, _FACTOR_3 = (tl.constexpr(factor) for factor, _ in ROUNDS)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (tl.constexpr(shift) for _, shift in ROUNDS)
_WIDTH, _HALF, _SMALLEST = tl.constexpr(BLOCK), tl.constexpr(BLOCK // 2), tl.constexpr(SMALLEST)


# Random bits: `stepwell.codecs.noise`.


@triton.jit
def keys_at(key, step):
    """The two keys of a parameter's hash at this step. One number each, but blocks of it: they may overflow."""
    mixed = tl.full([1], 0, tl.uint64) + key.to(tl.uint64, bitcast=True) + step.to(tl.uint64) + 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
    mixed = mixed ^ (mixed >> 31)
    return mixed.to(tl.uint32), (mixed >> 32).to(tl.uint32)


@triton.jit
def hash_of(low, high, element):
    """The 32-bit hash of the pair that each element belongs to, under two keys."""
    x = ((element >> 1) ^ low) * _FACTOR_1
    x = x ^ (x >> _SHIFT_1)
    x = (x ^ high) * _FACTOR_2
    x = x ^ (x >> _SHIFT_2)
    x = x * _FACTOR_3
    return x ^ (x >> _SHIFT_3)


@triton.jit
def random_bits(hashed, FACTOR: tl.constexpr, element):
    """16 random bits for one of the numbers that are stored for each element, of its pair's hash."""
    return ((hashed * FACTOR) >> ((element & 1) << 4)) & 0xFFFF


# 16-bit weights with what the rounding left over: `stepwell.codecs.rounding`.


@triton.jit
def to_bfloat16_by_chance(number, random):
    """bfloat16 from float32, rounded up where 16 random bits carry over; NaN stays NaN."""
    carried = (number.to(tl.uint32, bitcast=True) + random) >> 16
    return tl.where(number == number, carried, 0x7FC0).to(tl.uint16)


@triton.jit
def from_kahan(bits, error_bits):
    """float32 from bfloat16 and its rounding error, unless that is too large to be one."""
    rounded, error = from_bfloat16(bits), from_bfloat16(error_bits)
    return tl.where(tl.abs(error) <= 0.00390625 * tl.abs(rounded), rounded + error, rounded)


@triton.jit
def kahan_error(number):
    """What bfloat16 leaves over of a float32, in bfloat16, and no more than lets the sum of both round to the same."""
    bits = to_bfloat16(number)
    rounded = from_bfloat16(bits)
    error = to_bfloat16(tl.where(tl.abs(rounded) == float("inf"), 0.0, number - rounded))
    moves = to_bfloat16(rounded + from_bfloat16(error)) != bits
    return error - moves.to(tl.uint16)


@triton.jit
def from_halves(bits, remainder):
    """float32 from its upper half, rounded, and a signed remainder that leads neither below 0 nor beyond infinity."""
    size, below = bits.to(tl.uint32) & 0x7FFF, remainder.to(tl.int16, bitcast=True).to(tl.int32)
    below = tl.where(((size == 0) & (below < 0)) | ((size == 0x7F80) & (below > 0)), 0, below)
    return ((bits.to(tl.uint32) << 16) + below.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def upper_half(number):
    """bfloat16 from float32, rounded to nearest, ties away from zero; NaN stays NaN."""
    return to_bfloat16_by_chance(number, 0x8000)


@triton.jit
def lower_half(number):
    """What `upper_half` leaves over."""
    return tl.where(number == number, number.to(tl.uint32, bitcast=True) & 0xFFFF, 0).to(tl.uint16)


@triton.jit
def to_24_bits(number, random):
    """The float32, rounded to its upper 24 bits: up where the upper 8 of 16 random bits carry over; NaN stays NaN."""
    carried = (number.to(tl.uint32, bitcast=True) + (random >> 8)) & 0xFFFFFF00
    return tl.where(number == number, carried.to(tl.float32, bitcast=True), number)


@triton.jit
def third_byte(number):
    """What `upper_half` leaves over of 24 bits."""
    return tl.where(number == number, number.to(tl.uint32, bitcast=True) >> 8, 0).to(tl.uint8)


@triton.jit
def wide_remainder(byte):
    """What `upper_half` leaves over, of 16 bits, from a byte."""
    return byte.to(tl.uint16) << 8


@triton.jit
def from_bfloat16_with_master(bits, master):
    """The master, unless its bfloat16 has been overwritten."""
    rounded = from_bfloat16(bits)
    return tl.where(from_bfloat16(to_bfloat16(master)) == rounded, master, rounded)


@triton.jit
def from_float16_with_master(bits, master):
    """The master, unless its float16 has been overwritten."""
    rounded = from_float16(bits)
    return tl.where(from_float16(to_float16(master)) == rounded, master, rounded)


# State in blocks: `stepwell.codecs.blocks`. The elements `i` fill the blocks with the numbers `block`, but for those
# that are not `there`. A codec says FIRST, SHIFT, CODES and EPSILON of its codes, and whether they are POSITIVE; SHARE
# is 1 / the span of z, SPREAD what r is multiplied with.


@triton.jit
def decode_8bit(
    codes, scales, i, inside, block, there,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, CODES: tl.constexpr, EPSILON: tl.constexpr,
    POSITIVE: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """The numbers of elements `i`."""
    code = tl.load(codes + i, inside, 0).to(tl.uint32)
    return _number_of(code, scales, block, there, FIRST, SHIFT, CODES, EPSILON, POSITIVE, SHARE)


@triton.jit
def decode_4bit(
    codes, scales, i, inside, block, there,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, CODES: tl.constexpr, EPSILON: tl.constexpr,
    POSITIVE: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """The numbers of elements `i`: the halves of a block share its bytes, one the lower bits, the other the upper."""
    byte = tl.load(codes + i // _WIDTH * _HALF + i % _HALF, inside, 0).to(tl.uint32)
    code = (byte >> (i % _WIDTH // _HALF * 4).to(tl.uint32)) & 15
    return _number_of(code, scales, block, there, FIRST, SHIFT, CODES, EPSILON, POSITIVE, SHARE)


@triton.jit
def _number_of(
    code, scales, block, there,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, CODES: tl.constexpr, EPSILON: tl.constexpr,
    POSITIVE: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """From codes to numbers."""
    factor = tl.load(scales + block, there, 0) * SHARE
    z = (((code & (CODES - 1)) << SHIFT) + FIRST).to(tl.float32, bitcast=True)
    x = tl.reshape(tl.reshape(z - EPSILON, [code.numel // _WIDTH, _WIDTH]) * factor[:, None], code.shape)
    if not POSITIVE:
        x = tl.where(code >= CODES, -x, x)
    return x


@triton.jit
def encode_8bit(
    x, codes, scales, i, inside, block, there, random,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, CODES: tl.constexpr, EPSILON: tl.constexpr,
    POSITIVE: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Store the numbers of elements `i`, which fill whole blocks but for the last."""
    largest = _largest(x, scales, inside, block, there)
    code = _code_of(x, largest, inside, random, FIRST, SHIFT, CODES, EPSILON, POSITIVE, SPREAD)
    tl.store(codes + i, tl.reshape(code, x.shape).to(tl.uint8), inside)


@triton.jit
def encode_4bit(
    x, codes, scales, inside, block, there, random,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, CODES: tl.constexpr, EPSILON: tl.constexpr,
    POSITIVE: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Store numbers that fill whole blocks but for the last: that is filled up with zeros."""
    largest = _largest(x, scales, inside, block, there)
    code = _code_of(x, largest, inside, random, FIRST, SHIFT, CODES, EPSILON, POSITIVE, SPREAD)
    shift = (4 * tl.arange(0, 2)).to(tl.uint32)[None, :, None]
    byte = tl.sum(tl.reshape(code, [x.numel // _WIDTH, 2, _HALF]) << shift, axis=1)
    at = block[:, None] * _HALF + tl.arange(0, _HALF)[None, :]
    tl.store(codes + at, byte.to(tl.uint8), there[:, None])


@triton.jit
def _largest(x, scales, inside, block, there):
    """The largest absolute value of each block, or SMALLEST; NaN where one is not finite. It is stored, too. The bits
    of floats keep their order."""
    bits = tl.where(inside, x, 0.0).to(tl.uint32, bitcast=True) & 0x7FFFFFFF
    most = tl.max(tl.reshape(bits.to(tl.int32), [x.numel // _WIDTH, _WIDTH]), axis=1)
    largest = tl.maximum(most.to(tl.float32, bitcast=True), _SMALLEST)
    largest = tl.where(most < 0x7F800000, largest, float("nan"))
    tl.store(scales + block, largest, there)
    return largest


@triton.jit
def _code_of(
    x, largest, inside, random,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, CODES: tl.constexpr, EPSILON: tl.constexpr,
    POSITIVE: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """From numbers to codes, a row for each block."""
    x = tl.reshape(tl.where(inside, x, 0.0), [x.numel // _WIDTH, _WIDTH])
    random = tl.reshape(random, x.shape)
    factor = tl.div_rn(tl.full(largest.shape, SPREAD, tl.float32), largest)[:, None]
    size = tl.where(x > 0.0, x, 0.0) if POSITIVE else tl.abs(x)
    code = ((size * factor + EPSILON).to(tl.uint32, bitcast=True) - FIRST + random) >> SHIFT
    if POSITIVE:
        code = tl.where(x > 0.0, tl.maximum(tl.minimum(code, CODES - 1), 1), 0)
    else:
        negative = x.to(tl.uint32, bitcast=True) >> 31
        code = (code & (CODES - 1)) | (negative * CODES)
    return code.to(tl.uint32)
