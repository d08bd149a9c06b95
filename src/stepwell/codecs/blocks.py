"""State in 8 or 4 bits: blocks of 256 numbers that share one float32, their largest absolute value.

The code of a number is a small float of its own: sign, exponent, fraction. It is *dynamic* (Dettmers et al. 2022,
arXiv:2110.02861, sec. 1.3): precise in proportion to the number over most of its range, evenly spaced near zero, which
it holds exactly. With r = |x| / the block's largest, in [0, 1], it is read off the bits of a float32

    z = ε + r·(top − ε)     with ε = 2^(1−k), top = 2 − 2⁻ᵐ

that lies in one of k powers of two: the exponent's lowest bits and m bits of the fraction, the others cut off.

    8 bits, signed      k = 8,  m = 4     smallest r above 0: 1/3952
    8 bits, unsigned    k = 16, m = 4                         1/1015792
    4 bits, signed      k = 4,  m = 1                         1/22
    4 bits, unsigned    k = 8,  m = 1                         1/382

The error of r is below 2⁻ᵐ·(r + ε/(top − ε)). Dettmers' code has the same shape with decades in place of octaves and a
table to look it up in; this one takes a shift and an addition, with which a kernel's loop fills vector registers.

What is cut off is rounded stochastically, as for bfloat16 (`stepwell.codecs.rounding`): with β₂ = 0.999 a second
moment changes by thousandths of itself in a step, far less than the distance of two codes, and would stand still.
Above zero an unsigned code is at least 1: it is a second moment, whose root divides.

NaN or infinity makes its block NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from stepwell.codecs.codec import Codec
from stepwell.rules.rule import Shape

BLOCK = 256
# A block's largest number is taken for at least this: the smallest whose reciprocal is finite.
SMALLEST = 2.0**-126
# So far is the largest number held below its code, so that no rounding of z lifts it above.
_ROOM = 1 - 2.0**-20


@dataclass(frozen=True)
class Blocks(Codec):
    """Numbers of `bits` bits each, `positive` ones without a sign, and a float32 for every 256 of them.

    Blocks are counted in row-major order. Two codes of 4 bits share a byte: the first half of a block has the lower
    bits of its bytes, the second half the upper ones, and the last block is filled up.
    """

    bits: int
    positive: bool
    stochastic: bool = True

    parts: ClassVar[tuple[str, ...]] = ("", "scale")
    block: ClassVar[int] = BLOCK

    @property
    def draws(self) -> bool:
        return self.stochastic

    @property
    def word(self) -> str:
        return f"{self.bits}bit {'unsigned' if self.positive else 'signed'}"

    @property
    def fraction(self) -> int:
        """m, the bits of the fraction."""
        return 4 if self.bits == 8 else 1

    @property
    def codes(self) -> int:
        """How many codes there are, the sign aside."""
        return 1 << (self.bits - (not self.positive))

    @property
    def epsilon(self) -> float:
        """ε, the z of zero."""
        return 2.0 ** (1 - (self.codes >> self.fraction))

    @property
    def span(self) -> float:
        """top − ε, the z of the largest number less that of zero."""
        return 2.0 - 2.0**-self.fraction - self.epsilon

    @property
    def spread(self) -> float:
        """What r is multiplied with."""
        return self.span * _ROOM

    @property
    def shift(self) -> int:
        """How many bits of z are cut off."""
        return 23 - self.fraction

    @property
    def below(self) -> int:
        """Half of the last of 16 random bits, which are the upper ones of those that are cut off."""
        return 1 << (self.shift - 17)

    @property
    def first(self) -> int:
        """The bits of ε as a float32: a multiple of all that a code can add to them."""
        return (128 - (self.codes >> self.fraction)) << 23

    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        blocks = -(-torch.Size(shape).numel() // BLOCK)
        codes = shape if self.bits == 8 else (blocks * BLOCK // 2,)
        return ((codes, torch.uint8), ((blocks,), torch.float32))

    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        elements = torch.Size(shape).numel()
        codes = _in_blocks(self._unpacked(parts[0]))
        z = ((codes & (self.codes - 1)) << self.shift) + self.first
        x = (z.view(torch.float32) - self.epsilon) * (parts[1] * (1 / self.span)).unsqueeze(1)
        if not self.positive:
            x = torch.where(codes >= self.codes, -x, x)
        return x.reshape(-1)[:elements].reshape(shape)

    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        x = _in_blocks(number.float().reshape(-1))
        largest = x.abs().amax(1)
        largest = torch.where(largest.isfinite(), largest.clamp(min=SMALLEST), torch.nan)
        spread = torch.tensor(self.spread, dtype=torch.float32, device=x.device)
        r = (x.clamp(min=0.0) if self.positive else x.abs()) * (spread / largest).unsqueeze(1)
        half = 1 << (self.shift - 1)
        # Of the bits that are cut off 16 are random, and half of the last of these stands for those below.
        added = half if noise is None else _in_blocks((noise >> (32 - self.shift)).to(torch.int32)) + self.below
        codes = ((r + self.epsilon).view(torch.int32) + added) >> self.shift
        codes = codes & (self.codes - 1)
        if self.positive:
            codes = torch.where(x > 0, codes.clamp(min=1), codes)
        else:
            codes = codes + self.codes * x.signbit().to(torch.int32)  # a bool would make int64 of all
        parts[0].copy_(self._packed(codes)[: parts[0].numel()].reshape(parts[0].shape))
        parts[1].copy_(largest)

    def nearest(self) -> Codec:
        return Blocks(self.bits, self.positive, stochastic=False)

    def _unpacked(self, stored: Tensor) -> Tensor:
        """One code an element, as int32."""
        codes = stored.reshape(-1).to(torch.int32)
        if self.bits == 8:
            return codes
        halves = codes.reshape(-1, BLOCK // 2)
        return torch.cat((halves & 15, halves >> 4), 1).reshape(-1)

    def _packed(self, codes: Tensor) -> Tensor:
        """The bytes of whole blocks of codes."""
        if self.bits == 4:
            lower, upper = codes.chunk(2, 1)
            codes = lower + (upper << 4)
        return codes.to(torch.uint8).reshape(-1)


def _in_blocks(flat: Tensor) -> Tensor:
    """Numbers in rows of a block each, the last filled up with zeros."""
    return pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
