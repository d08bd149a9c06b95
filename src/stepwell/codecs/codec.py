"""Codecs: how a number is kept in memory. A rule sees the number, an engine loads and stores it through its codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.rules.rule import Shape

# What the weights are called among the numbers of a rule; the others are its slots.
WEIGHTS = "p"


@dataclass(frozen=True)
class Stored:
    """One tensor that holds a number, or a part of it, for each element of a parameter."""

    name: str
    shape: Shape
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def drawn(number: str, codecs: Mapping[str, Codec]) -> int:
    """Which it is, from 0, among the numbers that are rounded by chance."""
    return [name for name, codec in codecs.items() if codec.draws].index(number)


class Codec(ABC):
    """One way of keeping a number. Codecs are values: two that do the same are equal.

    Attributes:
        parts: the names of the tensors that hold it: the first has none of its own, the others are called after it.
        rounds: the number that is loaded is not the one that was stored.
        draws: it is stored with random bits, which depend on where in the tensor the element stands.
        block: how many neighbours, in row-major order, are stored together.
    """

    parts: ClassVar[tuple[str, ...]] = ("",)
    block: ClassVar[int] = 1

    @property
    def rounds(self) -> bool:
        return True

    @property
    def draws(self) -> bool:
        return False

    @property
    @abstractmethod
    def word(self) -> str:
        """What it is called in kernels and messages."""

    @abstractmethod
    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        """Shape and dtype of each part, for a number of this shape."""

    @abstractmethod
    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """The number, as a tensor of this shape in at least the precision that it is stored in."""

    @abstractmethod
    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        """Put the number into its parts.

        Args:
            number: of the parameter's shape, in float32 or float64.
            parts: the tensors to write to.
            noise: 32 bits for each element, in row-major order, the upper 16 random, of which a codec takes as many of
                the upper ones as it cuts off; without them it rounds to the nearest.
        """

    def nearest(self) -> Codec:
        """The codec of the same parts that rounds to the nearest."""
        return self

    def names(self, number: str) -> tuple[str, ...]:
        """What the parts of a number are called in a parameter's state; the first part of the weights is not there."""
        base = "weight" if number == WEIGHTS else number
        return tuple(f"{base}_{part}" if part else number for part in self.parts)

    def stored(self, number: str, shape: Shape) -> tuple[Stored, ...]:
        """The tensors that hold a number of this shape."""
        described = zip(self.names(number), self.layout(shape), strict=True)
        return tuple(Stored(name, held, dtype) for name, (held, dtype) in described)

    def is_in(self, number: str, state: Mapping[str, Any], shape: Shape) -> bool:
        """Whether the state holds a number of this shape in this way."""
        return all(
            isinstance(found := state.get(part.name), Tensor)
            and (tuple(found.shape), found.dtype) == (part.shape, part.dtype)
            for part in self.stored(number, shape)
            if part.name != WEIGHTS
        )


@dataclass(frozen=True)
class Plain(Codec):
    """A tensor of floating-point numbers, rounded to the nearest."""

    dtype: torch.dtype

    @property
    def rounds(self) -> bool:
        return self.dtype.itemsize < 4

    @property
    def word(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def layout(self, shape: Shape) -> tuple[tuple[Shape, torch.dtype], ...]:
        return ((shape, self.dtype),)

    def load(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        return parts[0]

    def store(self, number: Tensor, parts: Sequence[Tensor], noise: Tensor | None = None) -> None:
        parts[0].copy_(number)
