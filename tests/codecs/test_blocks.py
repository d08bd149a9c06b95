"""State in blocks of 8 and 4 bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stepwell.codecs import BLOCK, Blocks, noise

CODECS = [Blocks(bits, positive) for bits in (8, 4) for positive in (False, True)]
each = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.word)

# Of all sizes that float32 has, side by side: zero, denormal, tiny, huge.
SIZES = st.sampled_from([0.0, 1e-45, 1e-40, 1e-30, 1e-10, 1e-3, 1.0, 1e5, 1e38])
NUMBERS = st.tuples(st.floats(-3.0, 3.0), SIZES).map(lambda pair: pair[0] * pair[1])


def numbers_for(codec: Blocks, values: list[float]) -> Tensor:
    number = torch.tensor(values, dtype=torch.float32)
    return number.abs() if codec.positive else number


def stored(codec: Blocks, number: Tensor, random: Tensor | None = None) -> list[Tensor]:
    parts = [torch.empty(shape, dtype=dtype) for shape, dtype in codec.layout(tuple(number.shape))]
    codec.store(number, parts, random)
    return parts


def through(codec: Blocks, number: Tensor, random: Tensor | None = None) -> Tensor:
    return codec.load(stored(codec, number, random), tuple(number.shape))


def random_bits(elements: int, step: int = 1) -> Tensor:
    (key,) = noise.keys_at(noise.keys([0], [0]), [step])
    return noise.noise(int(key), elements, torch.device("cpu")).bits(1)


def in_blocks(number: Tensor) -> list[Tensor]:
    return list(number.flatten().split(BLOCK)) if number.numel() else []


def bound(codec: Blocks, block: Tensor) -> Tensor:
    """The distance of the two codes around a number: a share 2⁻ᵐ of r + ε/(top − ε), of the block's largest.

    What float32 rounds is a few units in the last place of the largest; below 2⁻¹²⁶ the largest is taken for that.
    """
    largest = block.abs().max().clamp(min=2.0**-126).double()
    steps = (block.abs().double() + codec.epsilon / codec.span * largest) * 2.0**-codec.fraction
    return steps + 2.0**-20 * largest


@each
@given(values=st.lists(NUMBERS, min_size=1, max_size=600), data=st.data())
def test_round_trips_stay_within_a_code(codec: Blocks, values: list[float], data: st.DataObject) -> None:
    number = numbers_for(codec, values)
    random = data.draw(st.sampled_from([None, random_bits(len(values))]), label="random bits")
    found = through(codec, number, random)
    for before, after in zip(in_blocks(number), in_blocks(found), strict=True):
        error = (after.double() - before.double()).abs()
        assert (error <= bound(codec, before)).all(), (before[error > bound(codec, before)], after)


@each
@given(values=st.lists(NUMBERS, min_size=1, max_size=300))
def test_to_the_nearest_is_half_of_that(codec: Blocks, values: list[float]) -> None:
    number = numbers_for(codec, values)
    found = through(codec.nearest(), number)
    for before, after in zip(in_blocks(number), in_blocks(found), strict=True):
        allowed = 0.5 * bound(codec, before) + 2.0**-20 * before.abs().max().double()
        least = before.abs().max().clamp(min=2.0**-126).double() * codec.epsilon / codec.span * 2.0**-codec.fraction
        if codec.positive:  # what is above zero stays above zero, so the smallest may be a whole code away
            allowed = torch.where(before.double() < least, least * (1 + 1e-6), allowed)
        assert ((after.double() - before.double()).abs() <= allowed).all()


@each
@given(values=st.lists(NUMBERS, min_size=1, max_size=300))
def test_zeros_signs_and_the_largest_are_kept(codec: Blocks, values: list[float]) -> None:
    number = numbers_for(codec, values)
    found = through(codec, number, random_bits(len(values)))
    assert (found[number == 0] == 0).all()
    assert (found * number.sign() >= 0).all()
    for before, after in zip(in_blocks(number), in_blocks(found), strict=True):
        if before.abs().max() >= 2.0**-126:
            # By chance once in 30,000 the largest gets the code below: 2⁻ᵐ of it.
            assert after.abs().max() <= before.abs().max() * (1 + 1e-6)
            assert after.abs().max() >= before.abs().max() * (1 - 1.1 * 2.0**-codec.fraction)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec.positive], ids=lambda codec: codec.word)
@given(values=st.lists(NUMBERS, min_size=1, max_size=300))
def test_a_second_moment_above_zero_stays_above_zero(codec: Blocks, values: list[float]) -> None:
    number = numbers_for(codec, values)
    for random in (None, random_bits(len(values))):
        found = through(codec, number, random)
        # Where even the largest of the block is a denormal, a code's value may be smaller than float32 can hold.
        visible = torch.cat([block * 0 + block.max() for block in in_blocks(number)]) > 2.0**-105
        assert (found[(number > 0) & visible] > 0).all()


# By hand


@pytest.mark.parametrize(
    ("codec", "code", "share"),
    [
        # z = ε + r·(top − ε); code c has z = 2^(c div 2ᵐ)·ε·(1 + (c mod 2ᵐ)/2ᵐ).
        (Blocks(8, positive=False), 0, 0.0),
        (Blocks(8, positive=False), 1, 2**-11 / (1.9375 - 2**-7)),  # ε = 2⁻⁷, the first step 2⁻⁷/16
        (Blocks(8, positive=False), 127, 1.0),
        (Blocks(8, positive=False), 128 + 96, -(0.5 - 2**-7) / (1.9375 - 2**-7)),  # 96 = 6·16: z = 2⁶·2⁻⁷
        (Blocks(8, positive=True), 1, 2**-19 / (1.9375 - 2**-15)),
        (Blocks(8, positive=True), 255, 1.0),
        (Blocks(8, positive=True), 232, (0.75 - 2**-15) / (1.9375 - 2**-15)),  # 14·16 + 8: z = 2¹⁴·2⁻¹⁵·1.5
        (Blocks(4, positive=False), 1, 2**-4 / (1.5 - 2**-3)),
        (Blocks(4, positive=False), 8 + 7, -1.0),
        (Blocks(4, positive=True), 1, 2**-8 / (1.5 - 2**-7)),
        (Blocks(4, positive=True), 15, 1.0),
    ],
)
def test_what_a_code_stands_for(codec: Blocks, code: int, share: float) -> None:
    # One block of a single number, the scale 8: both its codes in 4 bits.
    parts = [torch.full((1,) if codec.bits == 8 else (128,), code * (1 if codec.bits == 8 else 17), dtype=torch.uint8)]
    parts.append(torch.tensor([8.0]))
    assert codec.load(parts, (1,)).item() == pytest.approx(8.0 * share, rel=1e-6)
    if code:
        assert stored(codec, torch.tensor([8.0 * share, 8.0]))[0].flatten()[0].item() & (2**codec.bits - 1) == code


def test_where_two_codes_of_four_bits_lie() -> None:
    # The first and the 129th number of a block share its first byte, the first in the lower bits; 1 is code 7 and -1
    # code 15. The rest of the block, and what fills it up, are zeros.
    number = torch.zeros(200)
    number[0], number[128], number[1] = 1.0, -1.0, -1.0
    codes, scale = stored(Blocks(4, positive=False), number)
    assert codes.shape == (128,)
    assert codes[:3].tolist() == [15 * 16 + 7, 15, 0]
    assert scale.tolist() == [1.0]


def test_sizes_of_what_is_stored() -> None:
    assert Blocks(8, positive=True).layout((100, 7)) == (((100, 7), torch.uint8), ((3,), torch.float32))
    assert Blocks(4, positive=True).layout((100, 7)) == (((384,), torch.uint8), ((3,), torch.float32))
    assert Blocks(8, positive=True).layout(()) == (((), torch.uint8), ((1,), torch.float32))
    assert Blocks(4, positive=True).layout((0, 3)) == (((0,), torch.uint8), ((0,), torch.float32))


@each
@pytest.mark.parametrize("elements", [0, 1, 255, 256, 257, 1000])
def test_blocks_of_all_lengths(codec: Blocks, elements: int) -> None:
    number = numbers_for(codec, torch.linspace(-1, 1, elements).tolist())
    found = through(codec, number)
    assert found.shape == number.shape
    for before, after in zip(in_blocks(number), in_blocks(found), strict=True):
        assert ((after - before).abs().double() <= bound(codec, before)).all()


@each
def test_nan_and_infinity_make_their_block_nan(codec: Blocks) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        number = numbers_for(codec, [0.5] * 600)
        number[300] = bad
        found = through(codec, number, random_bits(600))
        assert found[BLOCK : 2 * BLOCK].isnan().all()
        assert found[:BLOCK].isfinite().all()
        assert found[2 * BLOCK :].isfinite().all()


# By chance


@each
def test_rounding_is_unbiased(codec: Blocks) -> None:
    # A block of 255 equal numbers and its largest, 4096 times over with other random bits. A number between two codes
    # at the distance d has the deviation at most d/2, and the mean of n of them d/2/√n. Five of them: by chance
    # exceeded once in 1.7 million, by each of 4 numbers. The largest is 1 but for the room of 2⁻²⁰ above it.
    blocks = 4096
    n = 255 * blocks
    for value in (0.9, 0.3, 0.01, 0.001):
        number = torch.full((blocks, BLOCK), value)
        number[:, 0] = 1.0
        found = through(codec, number.flatten(), random_bits(blocks * BLOCK)).reshape(blocks, BLOCK)[:, 1:].double()
        codes = found.unique()
        assert len(codes) <= 2
        distance = float(bound(codec, torch.tensor([value, 1.0]))[0])
        floor = codec.epsilon / codec.span * 2.0**-codec.fraction
        if codec.positive and value < floor:
            assert codes.item() == pytest.approx(floor)  # never 0: above it on purpose
        else:
            assert abs(float(found.mean()) - value) < 5 * distance / 2 / math.sqrt(n) + 2e-6


def test_a_second_moment_follows_changes_that_are_smaller_than_a_code() -> None:
    # v ← 0.999·v + 0.001·g² from v = 1 with g² = 0.25 everywhere: after 2000 steps 0.25 + 0.75·0.999²⁰⁰⁰ = 0.351.
    # A step changes v by less than 1/1000, and two codes are 1/16 apart: rounded to the nearest it never moves. One
    # element of the block has g² = 1 and stays the largest, so that the scale stays too.
    expected = 0.25 + 0.75 * 0.999**2000
    codec, elements = Blocks(8, positive=True), 16 * BLOCK
    squares = torch.full((elements,), 0.25)
    squares[::BLOCK] = 1.0
    moved = {}
    for name, chosen in (("by chance", codec), ("to the nearest", codec.nearest())):
        parts = stored(codec, torch.ones(elements))
        for step in range(2000):
            random = random_bits(elements, step) if name == "by chance" else None
            chosen.store(0.999 * chosen.load(parts, (elements,)) + 0.001 * squares, parts, random)
        moved[name] = codec.load(parts, (elements,))[squares < 1].double()
    assert float(moved["to the nearest"].min()) > 0.95
    # Each element has a deviation of about a fifth of v (a code is 1/16 of it, and one in 60 steps takes one); the mean
    # of 4080 of them 0.2·0.35/64 = 0.0011, of which five are 0.0055.
    assert abs(float(moved["by chance"].mean()) - expected) < 0.0055


def test_what_has_been_rounded_is_not_rounded_again() -> None:
    for codec in CODECS:
        number = numbers_for(codec, torch.randn(2000, generator=torch.Generator().manual_seed(0)).tolist())
        first = stored(codec, number, random_bits(2000))
        again = stored(codec, codec.load(first, (2000,)), random_bits(2000, step=2))
        same = first[0] == again[0]
        assert float(same.double().mean()) > 0.99  # the largest has a little room, so once in a while a code moves


@pytest.mark.parametrize("codec", CODECS[2:], ids=lambda codec: codec.word)
@pytest.mark.parametrize("share", [1.4e-5, 1e-4, 3e-4, 0.4])
def test_bits_below_the_random_ones_are_not_lost(codec: Blocks, share: float) -> None:
    # Of 22 bits that are cut off 16 are random. All of these but 0 stand beside a number at this share of the way
    # from one code to the next: it is rounded up as often as it should, to the nearest 2⁻¹⁶. The room above the largest
    # and the bits of float32 take 4e-6.
    levels = through(codec, torch.linspace(0.0, 1.0, BLOCK)).unique()
    above = int(torch.searchsorted(levels, 0.3))
    lower, upper = levels[above - 1].item(), levels[above].item()
    number = torch.ones(257, BLOCK)
    number[:, 1:] = lower + share * (upper - lower)
    every = torch.zeros(257, BLOCK, dtype=torch.int64)
    every[:, 1:] = torch.arange(1, 1 << 16).view(257, BLOCK - 1) << 16
    found = through(codec, number.flatten(), every.flatten()).view(257, BLOCK)[:, 1:].double()
    assert abs((float(found.mean()) - lower) / (upper - lower) - share) < 2.0**-17 + 4e-6
