"""Weights (and averages) in 16 bits whose small updates are not lost.

A bfloat16 holds 8 bits of a number. An update below 1/512 of a weight rounds to nothing, and late in training all are
below it. So a weight is rounded stochastically, or what the rounding left over is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stepwell.codecs.codec import Codec, Plain
from stepwell.rules.rule import Shape

_SIXTEEN_BITS = 0xFFFF
# The bits of infinity in bfloat16.
_INFINITY = 0x7F80
# The part of a number that lies within half a unit in the last of bfloat16's 8 places.
_HALF_A_PLACE = 2.0**-8


@dataclass(frozen=True)
class Stochastic(Codec):
    """A bfloat16, rounded up or down by chance, so that the mean of what is stored is the number.

    A number x between two neighbours a < b becomes b with probability (x − a)/(b − a): 16 random bits are added to
    those that fall away, and the carry decides (Gupta et al. 2015, arXiv:1502.02551, sec. 3.1).
    """

    @property
    def draws(self) -> bool:
        return True

    @property
    def word(self) -> str:
        return "stochastic bfloat16"

    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        return ((shape, torch.bfloat16),)

    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        return parts[0]

    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        number = number.float()
        if noise is not None:
            carried = _bits(number) + (noise >> 16).reshape(number.shape).to(torch.int32)
            rounded = (carried & ~_SIXTEEN_BITS).view(torch.float32)
            number = torch.where(number.isnan(), number, rounded)
        parts[0].copy_(number)

    def nearest(self) -> Codec:
        return Plain(torch.bfloat16)


@dataclass(frozen=True)
class Kahan(Codec):
    """A bfloat16 and its rounding error, in a second bfloat16 (Kahan 1965, doi:10.1145/363707.363723).

    Together they hold 16 bits of the number, and what is loaded is stored as the same bits again. An error that is too
    large for its weight belongs to one that somebody has overwritten since; then the weight alone counts.
    """

    parts: ClassVar[tuple[str, ...]] = ("", "compensation")

    @property
    def word(self) -> str:
        return "bfloat16 with compensation"

    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        return ((shape, torch.bfloat16), (shape, torch.bfloat16))

    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        rounded, error = parts[0].float(), parts[1].float()
        return torch.where(error.abs() <= _HALF_A_PLACE * rounded.abs(), rounded + error, rounded)

    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        number = number.float()
        rounded = number.bfloat16()
        error = torch.where(rounded.isinf(), 0.0, number - rounded.float()).bfloat16()
        # An error that was rounded up to half a place would make the sum of both round elsewhere.
        moves = (rounded.float() + error.float()).bfloat16() != rounded
        parts[0].copy_(rounded)
        parts[1].copy_((error.view(torch.int16) - moves.to(torch.int16)).view(torch.bfloat16))


@dataclass(frozen=True)
class Compensated(Codec):
    """A bfloat16 and the next bits of a float32: with 16 of them the weight is a float32, to the bit.

    The bfloat16 is the float32 rounded to nearest (from half way, away from zero), the remainder what its bits, as a
    whole number, have to be added to. In 4 bytes it holds what a bfloat16 with a float32 beside it holds in 6.

    With 8 bits, in 3 bytes, the weight is a float of 24, as of Gonzalez Ortiz et al. 2026 (arXiv:2602.23349); here the
    8 bits that it lacks are rounded by chance, so that its mean is the number.

    Beside a weight that somebody has overwritten, the remainder moves it by less than a rounding: below 0 in size, and
    beyond infinity, where none leads, it counts for nothing.
    """

    bits: Literal[8, 16] = 16
    stochastic: bool = True

    parts: ClassVar[tuple[str, ...]] = ("", "remainder")

    @property
    def rounds(self) -> bool:
        return self.bits < 16

    @property
    def draws(self) -> bool:
        return self.bits < 16 and self.stochastic

    @property
    def word(self) -> str:
        if self.bits == 16:
            return "bfloat16 with remainder"
        return f"bfloat16 with 8-bit remainder{'' if self.stochastic else ', rounded to the nearest'}"

    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        return ((shape, torch.bfloat16), (shape, torch.int16 if self.bits == 16 else torch.int8))

    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        upper, remainder = parts[0].view(torch.int16).to(torch.int32), parts[1].to(torch.int32) << (16 - self.bits)
        size = upper & 0x7FFF
        remainder = torch.where(size == 0, remainder.clamp(min=0), remainder)
        remainder = torch.where(size == _INFINITY, remainder.clamp(max=0), remainder)
        return ((upper << 16) + remainder).view(torch.float32)

    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        bits = _bits(torch.where(number.isnan(), torch.nan, number.float()))
        if self.bits == 8:
            carried = bits + (0x80 if noise is None else (noise >> 24).reshape(number.shape).to(torch.int32))
            bits = carried & ~0xFF
        upper = ((bits + 0x8000) & ~_SIXTEEN_BITS).view(torch.float32)
        parts[0].copy_(upper)
        parts[1].copy_((bits >> (16 - self.bits)).to(parts[1].dtype))

    def nearest(self) -> Codec:
        return Compensated(self.bits, stochastic=False)


@dataclass(frozen=True)
class Master(Codec):
    """A weight in 16 bits, and the float32 that it is rounded from.

    Where the weight is not its master, rounded, somebody has overwritten it since; then the weight counts.
    """

    dtype: torch.dtype

    parts: ClassVar[tuple[str, ...]] = ("", "master")

    @property
    def rounds(self) -> bool:
        return False

    @property
    def word(self) -> str:
        return f"{Plain(self.dtype).word} with master"

    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        return ((shape, self.dtype), (shape, torch.float32))

    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        weight, master = parts
        return torch.where(master.to(self.dtype) == weight, master, weight.float())

    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        for part in parts:
            part.copy_(number.float())


def _bits(number: Tensor) -> Tensor:
    """The bits of float32 numbers, as int32."""
    return number.float().view(torch.int32)
