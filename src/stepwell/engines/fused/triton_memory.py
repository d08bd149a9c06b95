"""What a Triton kernel needs beside Triton's own words: 16-bit floats as their bits, powers, the gradients' verdict.

Kernels import this module by name; it is imported only once Triton is.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

# Triton's interpreter, which runs kernels as Python on a CPU: its conversion to bfloat16 cuts off instead of rounding.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def from_bfloat16(bits):
    """float32 from bfloat16: its upper half."""
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def to_bfloat16(number):
    """bfloat16 from float32, rounded to nearest, ties to even; NaN stays NaN."""
    if INTERPRETED:
        bits = number.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(number == number, rounded, 0x7FC0).to(tl.uint16)
    return number.to(tl.bfloat16).to(tl.uint16, bitcast=True)


@triton.jit
def from_float16(bits):
    """float32 from float16."""
    return bits.to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def to_float16(number):
    """float16 from float32, rounded to nearest, ties to even."""
    return number.to(tl.float16).to(tl.uint16, bitcast=True)


@triton.jit
def power(x, y):
    """xʸ of float64s, as C's `pow` has it at 0 and below."""
    size = tl.exp(y * tl.log(tl.abs(x)))
    half = 0.5 * y
    of_a_negative = tl.where(tl.floor(y) == y, tl.where(tl.floor(half) == half, 1.0, -1.0), float("nan"))
    return tl.where(y == 0.0, 1.0, tl.where(x < 0.0, of_a_negative * size, size))


@triton.jit
def judge(
    sums,
    settings,
    scale,
    found,
    verdict,
    MEASURED: tl.constexpr,
    CLIPPED: tl.constexpr,
    SCALED: tl.constexpr,
    FOUND: tl.constexpr,
    SKIPPING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One verdict on all gradients, without the host: what they are multiplied with, whether the step is left out (1)
    or not (0), their norm before clipping, and how many steps have been left out so far.

    Args:
        sums: Σg² over each chunk of the gradients, float64.
        settings: the greatest norm, and how many sums there are, each a float64.
        scale: what the loss was multiplied with.
        found: not 0 where a scaler has found infinity or NaN.
        verdict: where it goes, four float64s.
        MEASURED: whether there are sums.
        CLIPPED: whether the norm has a limit.
        SCALED: whether there is a scale.
        FOUND: whether a scaler has looked.
        SKIPPING: whether gradients that are not finite leave the step out.
        BLOCK: sums taken at once.
    """
    factor = tl.full([], 1.0, tl.float64)
    skip = tl.full([], 0.0, tl.float64)
    if SCALED:
        factor = factor / tl.load(scale).to(tl.float64)
    if FOUND:
        skip = tl.where(tl.load(found) != 0, 1.0, skip)
    if MEASURED:
        lane = tl.arange(0, BLOCK)
        total = tl.zeros([BLOCK], tl.float64)
        parts = tl.load(settings + 1).to(tl.int64)
        for at in range(0, parts, BLOCK):
            total += tl.load(sums + at + lane, at + lane < parts, 0.0)
        norm = tl.sqrt(tl.sum(total)) * factor
        tl.store(verdict + 2, norm)
        if SKIPPING:
            skip = tl.where(norm * 0.0 == 0.0, skip, 1.0)
        if CLIPPED:
            shrink = tl.load(settings) / (norm + 1e-6)
            factor = factor * tl.where(shrink > 1.0, 1.0, shrink)
    tl.store(verdict, factor)
    tl.store(verdict + 1, skip)
    tl.store(verdict + 3, tl.load(verdict + 3) + skip)
