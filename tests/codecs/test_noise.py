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
    return noise.noise(int(key), elements, CPU).bits(number)


def test_the_same_element_has_the_same_bits_however_many_there_are() -> None:
    assert torch.equal(words(elements=1000), words()[:1000])
    assert not torch.equal(words(), words(seed=1))


def test_one_hash_by_hand() -> None:
    # Keys 5 and 7, elements 6 and 7, which are pair 3. First round: (3 ^ 5)·0xED5AD4BB = 6·3982152891 = 23892917346,
    # modulo 2³² 2418080866; ^ (x >> 11). Then the other key, and so on; worked out with Python's whole numbers.
    x = ((3 ^ 5) * 0xED5AD4BB) % 2**32
    assert x == 2418080866
    x ^= x >> 11
    x = ((x ^ 7) * 0xAC4C1B51) % 2**32
    x ^= x >> 15
    x = (x * 0x31848BAB) % 2**32
    x ^= x >> 14
    for number, product in enumerate((x, x * 0x9E379E37, x * 0x9E379E37**2)):
        halves = [(product & 0xFFFF) << 16, (product >> 16 & 0xFFFF) << 16]
        assert noise.noise((7 << 32) | 5, 8, CPU).bits(number)[6:].tolist() == halves
        assert noise.noise((7 << 32) | 5, 1, CPU, origin=7).bits(number).tolist() == halves[1:]


def every_half(number: int, *, upper: bool) -> torch.Tensor:
    """The bits of a number where the hash has any 16 bits once in one of its halves, and 0x1234 in the other."""
    halves = torch.arange(1 << 16)
    hashes = (halves << 16) + 0x1234 if upper else halves + (0x1234 << 16)
    return noise.Noise(hashes, 0, 2 << 16).bits(number)[int(upper) :: 2]


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("number", range(4))
def test_each_number_has_any_16_bits_once(number: int, upper: bool) -> None:
    assert torch.equal((every_half(number, upper=upper) >> 16).sort().values, torch.arange(1 << 16))


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize("upper", [False, True])
def test_the_bits_of_two_numbers_fill_the_square_evenly(numbers: tuple[int, int], upper: bool) -> None:
    # Of 2¹⁶ points a share b of both sides holds b²·2¹⁶, but for what a lattice leaves at its edges.
    first, second = (every_half(number, upper=upper).double() / 2**32 for number in numbers)
    for b, c in itertools.product((0.01, 0.1, 0.37, 0.5, 0.81), repeat=2):
        assert abs(float(((first < b) & (second < c)).double().mean()) - b * c) < 5e-4


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
    series += [torch.roll(words(), distance) for distance in (1, 2, 8, 256, 768)]
    correlations = np.corrcoef(torch.stack(series).double().numpy())
    apart = correlations[np.triu_indices(len(series), 1)]
    assert np.abs(apart).max() < 5 / math.sqrt(ELEMENTS)


def test_keys_depend_on_seed_step_and_place_each_for_itself() -> None:
    triples = list(itertools.product((0, 1, 2**31), (0, 1, 2), (0, 1, 2)))
    seeds, steps, places = map(list, zip(*triples, strict=True))
    keys = noise.keys_at(noise.keys(seeds, places), steps)
    assert len(set(keys.tolist())) == len(triples)
    assert keys.dtype == np.uint64
