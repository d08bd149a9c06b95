"""Random bits for stochastic rounding, counted and not drawn: a hash of seed, step, parameter and place.

So they are the same for the same element whatever the engine, the threads or the pieces in which a tensor is worked
through. An element is counted in row-major order, modulo 2³².

The hash is Wellons' `triple32` (nullprogram.com/blog/2018/07/31), of two keys in place of one: each is exclusive-ored
in before a multiplication, so that different keys do not give the same sequence, shifted. It is worked out once for two
neighbours. Each number that is stored for them has a product of it with an odd factor: the element of an even place the
lower 16 bits, the next one the upper 16. So each of these comes as often as any other; and the factors are powers of
one whose halves are 2¹⁶ times the golden ratio, so that what two numbers of an element have fills the square as evenly
as a lattice can (Knuth, The Art of Computer Programming, vol. 2, sec. 3.3.4). The kernels have the same in
`stepwell.engines.fused.stored`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# (factor, shift) of each round.
ROUNDS = ((0xED5AD4BB, 11), (0xAC4C1B51, 15), (0x31848BAB, 14))
_MASK = (1 << 32) - 1
_GOLDEN = 0x9E379E37


def keys(seeds: Sequence[int], places: Sequence[int]) -> NDArray[np.uint64]:
    """For each parameter the key of its random bits, the same at every step.

    Args:
        seeds: the seed of each parameter's group.
        places: which of the optimizer's parameters each is.
    """
    return _mixed(_mixed(np.zeros(len(seeds), np.uint64), [seed % 2**64 for seed in seeds]), places)


def keys_at(keys: NDArray[np.uint64], steps: Sequence[int]) -> NDArray[np.uint64]:
    """For each parameter the two keys of its hash at one step, in the two halves of 64 bits.

    Args:
        keys: those of the parameters.
        steps: how many updates each has had, this one counted.
    """
    return _mixed(keys, steps)


def _mixed(mixed: NDArray[np.uint64], words: Sequence[int]) -> NDArray[np.uint64]:
    """One round of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) on what was mixed before and a word."""
    mixed = mixed + np.array(words, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def factor_of(number: int) -> int:
    """What a hash is multiplied with for one of the numbers that are rounded by chance, counted from 0."""
    return pow(_GOLDEN, number, 1 << 32)


@dataclass(frozen=True)
class Noise:
    """What the random bits of a run of elements are made of.

    Attributes:
        hashes: the 32-bit hash of each pair that one of them belongs to, as int64.
        origin: the place of the first of them.
        elements: how many they are.
    """

    hashes: Tensor
    origin: int
    elements: int

    def bits(self, number: int) -> Tensor:
        """16 random bits for each element, as the upper ones of 32 in an int64, for one of the numbers that are stored
        for it."""
        product = self.hashes * factor_of(number)
        halves = torch.stack((product & 0xFFFF, product >> 16 & 0xFFFF), dim=1).reshape(-1)
        first = self.origin % 2
        return halves[first : first + self.elements] << 16


def noise(key: int, elements: int, device: torch.device, origin: int = 0) -> Noise:
    """Hash so many elements, `origin` being the place of the first; `key` holds the two keys of the hash."""
    x = (torch.arange(origin // 2, (origin + elements + 1) // 2, dtype=torch.int64, device=device) * 2 & _MASK) >> 1
    for (factor, shift), word in zip(ROUNDS, (key & _MASK, key >> 32, 0), strict=True):
        x = ((x ^ word) * factor) & _MASK
        x = x ^ (x >> shift)
    return Noise(x, origin, elements)
