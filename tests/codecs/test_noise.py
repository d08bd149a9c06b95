"""Random bits that are counted, not drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from stepwell.codecs import noise

CPU = torch.device("cpu")
ELEMENTS = 1 << 18


def words(seed: int = 0, step: int = 1, place: int = 0, number: int = 0, elements: int = ELEMENTS) -> torch.Tensor:
    (key,) = noise.keys_at(noise.keys([seed], [place]), [step])
    return noise.bits(noise.hashes(int(key), elements, CPU), number)


def test_the_same_element_has_the_same_bits_however_many_there_are() -> None:
    assert torch.equal(words(elements=1000), words()[:1000])
    assert not torch.equal(words(), words(seed=1))


def test_one_hash_by_hand() -> None:
    # Keys 5 and 7, element 3. First round: (3 ^ 5)·0xED5AD4BB = 6·3982152891 = 23892917346, modulo 2³² 2418080866;
    # ^ (x >> 11). Then the other key, and so on; worked out with Python's whole numbers.
    x = ((3 ^ 5) * 0xED5AD4BB) % 2**32
    assert x == 2418080866
    x ^= x >> 11
    x = ((x ^ 7) * 0xAC4C1B51) % 2**32
    x ^= x >> 15
    x = (x * 0x31848BAB) % 2**32
    x ^= x >> 14
    assert int(noise.hashes((7 << 32) | 5, 4, CPU)[3]) == x


def test_of_the_hash_the_first_number_gets_the_upper_half_and_the_second_the_lower() -> None:
    hashed = torch.tensor([0x12345678])
    assert noise.bits(hashed, 0).item() >> 16 == 0x1234
    assert noise.bits(hashed, 1).item() >> 16 == 0x5678


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bits_are_uniform(bits: int) -> None:
    # The upper bits of every number fall evenly into 2ᵇ bins: χ² with 2ᵇ − 1 degrees of freedom, whose mean they are
    # and whose variance is twice that. Five standard deviations, over 4 steps and 4 numbers: by chance once in 10⁵.
    bins = 2**bits
    for step, number in itertools.product(range(4), range(4)):
        counts = torch.bincount(words(step=step, number=number) >> (32 - bits), minlength=bins).double()
        chi = float(((counts - ELEMENTS / bins) ** 2 / (ELEMENTS / bins)).sum())
        assert abs(chi - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1)) + 5


def test_steps_parameters_numbers_and_neighbours_are_uncorrelated() -> None:
    # The correlation of n pairs is normal with deviation 1/√n; 4 + 4 + 4 series and their neighbours at the distances
    # of a vector, a block and a row. 105 pairs within five deviations: by chance broken once in 10⁴.
    series = [words(step=step) for step in range(4)]
    series += [words(place=place) for place in range(1, 5)]
    series += [words(number=number) for number in range(1, 5)]
    series += [torch.roll(words(), distance) for distance in (1, 8, 256, 768)]
    correlations = np.corrcoef(torch.stack(series).double().numpy())
    apart = correlations[np.triu_indices(len(series), 1)]
    assert np.abs(apart).max() < 5 / math.sqrt(ELEMENTS)


def test_keys_depend_on_seed_step_and_place_each_for_itself() -> None:
    triples = list(itertools.product((0, 1, 2**31), (0, 1, 2), (0, 1, 2)))
    seeds, steps, places = map(list, zip(*triples, strict=True))
    keys = noise.keys_at(noise.keys(seeds, places), steps)
    assert len(set(keys.tolist())) == len(triples)
    assert keys.dtype == np.uint64
