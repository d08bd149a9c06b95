"""Weights in 16 bits: what they hold, and what they do with an update that is too small for them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from stepwell.codecs import WEIGHTS, Codec, Compensated, Kahan, Master, Plain, Stochastic, noise

CODECS = [Stochastic(), Kahan(), Compensated(), Compensated(8), Master(torch.bfloat16), Master(torch.float16)]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
each = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.word)


def stored(codec: Codec, number: Tensor, random: Tensor | None = None) -> list[Tensor]:
    parts = [torch.empty(part.shape, dtype=part.dtype) for part in codec.stored(WEIGHTS, tuple(number.shape))]
    codec.store(number, parts, random)
    return parts


def through(codec: Codec, number: Tensor, random: Tensor | None = None) -> Tensor:
    return codec.load(stored(codec, number, random), tuple(number.shape)).float()


def random_bits(elements: int, step: int = 1) -> Tensor:
    (key,) = noise.keys_at(noise.keys([0], [0]), [step])
    return noise.noise(int(key), elements, torch.device("cpu")).bits(0)


# What they hold


@given(values=st.lists(FLOATS, min_size=1, max_size=20))
def test_compensated_weights_are_float32_to_the_bit(values: list[float]) -> None:
    number = torch.tensor(values)
    assert torch.equal(through(Compensated(), number).view(torch.int32), number.view(torch.int32))


@given(bits=st.lists(st.integers(-(2**23), 2**23 - 1), min_size=1, max_size=20))
def test_eight_bits_of_a_remainder_hold_floats_of_24_bits(bits: list[int]) -> None:
    number = torch.tensor([256 * each for each in bits], dtype=torch.int32).view(torch.float32)
    number = torch.where(number.isnan(), torch.nan, number)
    ones = torch.full((len(bits),), 0xFFFFFFFF)
    for random in (ones, None):
        torch.testing.assert_close(through(Compensated(8), number, random), number, rtol=0, atol=0, equal_nan=True)


@given(values=st.lists(FLOATS.filter(lambda x: abs(x) > 1e-30 or x == 0), min_size=1, max_size=20))
def test_without_random_bits_a_remainder_is_rounded_to_the_nearest(values: list[float]) -> None:
    # In 16 places half a unit in the last is 2⁻¹⁷ of the next power of two; beyond the largest is infinity.
    number = torch.tensor(values)
    half_a_unit = 2.0 ** (torch.frexp(number).exponent.double() - 17)
    apart = (through(Compensated(8).nearest(), number).double() - number).abs()
    assert ((apart <= half_a_unit) | (number.abs() > 3.4028e38)).all()


@given(values=st.lists(FLOATS, min_size=1, max_size=20))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_master_is_float32_to_the_bit(dtype: torch.dtype, values: list[float]) -> None:
    number = torch.tensor(values)
    weight, _ = parts = stored(Master(dtype), number)
    assert torch.equal(weight, number.to(dtype))
    assert torch.equal(Master(dtype).load(parts, tuple(number.shape)), number)


@given(values=st.lists(FLOATS.filter(lambda x: 1e-30 < abs(x) < 1e38 or x == 0), min_size=1, max_size=20))
@example(values=[5652481.0])  # half a place of its weight, less 1
def test_kahan_holds_sixteen_bits(values: list[float]) -> None:
    # 8 bits of the number and 8 of what is left over: half a unit in the 16th place is 2⁻¹⁷ of it. Where what is left
    # over would round up to half a place of the weight, it is rounded down: less than a whole unit then, 2⁻¹⁶.
    number = torch.tensor(values)
    left_over = (number - number.bfloat16().float()).abs()
    half_a_place = 2.0 ** (torch.frexp(number).exponent - 9)
    places = torch.where(left_over > (1 - 2.0**-8) * half_a_place, 2.0**-16, 2.0**-17)
    assert ((through(Kahan(), number) - number).abs() <= places * number.abs()).all()


@given(values=st.lists(FLOATS, min_size=1, max_size=20))
def test_the_weight_of_every_codec_is_a_neighbour_of_the_number(values: list[float]) -> None:
    number = torch.tensor(values)
    for codec in CODECS[:-1]:
        weight = stored(codec, number, random_bits(len(values)))[0]
        nearest = number.bfloat16()
        # In the order of the bits, one further at most: the other neighbour, or infinity beyond the largest.
        apart = weight.view(torch.int16).int() - nearest.view(torch.int16).int()
        assert (apart.abs() <= 1).all()


@each
def test_what_a_tensor_can_hold_comes_back(codec: Codec) -> None:
    number = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-14, 65280.0, math.inf, -math.inf, math.nan])
    torch.testing.assert_close(through(codec, number, random_bits(9)), number, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("codec", CODECS[:-1], ids=lambda codec: codec.word)
def test_the_largest_and_the_smallest_numbers(codec: Codec) -> None:
    # The largest float32 lies between the largest bfloat16 and infinity; the smallest is far below any bfloat16.
    number = torch.tensor([3.4028234663852886e38, -3.4028234663852886e38, 1e-45, -1e-45])
    found = through(codec, number, random_bits(4))
    assert not found.isnan().any()
    assert found[2:].abs().max() < 1e-40


def test_nan_stays_nan_whatever_its_bits() -> None:
    every = torch.tensor([0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    ones = torch.full((4,), 0xFFFFFFFF)
    for codec in CODECS:
        assert through(codec, every, ones).isnan().all(), codec


# Rounding by chance


def test_stochastic_rounding_is_unbiased() -> None:
    # A number a quarter of the way from 1 to its neighbour 1 + 2⁻⁷ is rounded up with probability 1/4. Of n = 2²⁰ the
    # share has the deviation √(3/16/n) = 0.00042; five of them are 0.0021, exceeded by chance once in 1.7 million.
    n = 1 << 20
    for share in (0.25, 0.5, 0.9375):
        number = torch.full((n,), 1 + share * 2.0**-7)
        for sign in (1, -1):
            found = through(Stochastic(), sign * number, random_bits(n))
            assert set(found.unique().tolist()) == {sign * 1.0, sign * (1 + 2.0**-7)}
            up = float((found.abs() > 1).double().mean())
            assert abs(up - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_stochastic_rounding_is_exact_over_all_bits() -> None:
    # Over all 65,536 values of the 16 bits, a number with k/65536 of the way to go is rounded up k times.
    for k in (0, 1, 100, 32768, 65535):
        number = torch.full((65536,), 1.0).view(torch.int32).add(k).view(torch.float32)
        found = through(Stochastic(), number, torch.arange(65536) << 16)
        assert int((found > 1).sum()) == k


def test_the_last_of_a_remainders_eight_bits_is_rounded_exactly_over_all_bits() -> None:
    # Over all 256 values of the upper 8 random bits, a number with k/256 of the way to go is rounded up k times.
    for k in (0, 1, 100, 128, 255):
        for sign in (1, -1):
            number = sign * torch.full((256,), 1.0).view(torch.int32).add(0x7F00 + k).view(torch.float32)
            found = through(Compensated(8), number, torch.arange(256) << 24)
            assert int((found.abs() > number.abs()).sum()) == k
            assert {1 + 0x7F00 * 2.0**-23, 1 + 2.0**-8}.issuperset(found.abs().tolist())


def test_without_random_bits_it_rounds_to_the_nearest() -> None:
    number = torch.randn(1000)
    assert torch.equal(stored(Stochastic(), number)[0], number.bfloat16())
    assert Stochastic().nearest() == Plain(torch.bfloat16)


def walked(codec: Codec, steps: int, update: float, elements: int = 512) -> Tensor:
    """Weights of 1 after so many updates, each far below the distance of two bfloat16."""
    parts = stored(codec, torch.ones(elements))
    for step in range(steps):
        codec.store(codec.load(parts, (elements,)).float() + update, parts, random_bits(elements, step))
    return codec.load(parts, (elements,)).double()


def test_small_updates_are_lost_by_rounding_to_the_nearest_alone() -> None:
    # 2000 updates of 10⁻⁴ make 0.2. bfloat16's neighbour of 1 is 1 + 2⁻⁷ = 1.0078.
    assert torch.equal(walked(Plain(torch.bfloat16), 2000, 1e-4), torch.ones(512).double())
    for codec in (Compensated(), Master(torch.bfloat16)):
        assert torch.equal(walked(codec, 2000, 1e-4), walked(Plain(torch.float32), 2000, 1e-4))
    # Half a unit in the 16th place is 1.5·10⁻⁵ at 1: each sum is rounded to 10⁻⁴ ± 1.5·10⁻⁵, always the same way.
    torch.testing.assert_close(walked(Kahan(), 2000, 1e-4), torch.full((512,), 1.2).double(), rtol=0, atol=0.04)
    # The neighbour of 1 in 16 places is 2⁻¹⁵ away: by chance each of 512 weights arrives with a deviation below
    # √(2000·2⁻³¹) = 0.001, their mean with 0.00005.
    assert abs(float(walked(Compensated(8), 2000, 1e-4).mean()) - 1.2) < 0.0003
    # By chance each of 512 weights arrives at 1.2 with a deviation below √(2000·10⁻⁴·2⁻⁷) = 0.04; their mean's is
    # 0.0018, and five of those are 0.009.
    assert abs(float(walked(Stochastic(), 2000, 1e-4).mean()) - 1.2) < 0.009


# Weights that somebody else has written


@pytest.mark.parametrize("codec", [Kahan(), Master(torch.bfloat16), Master(torch.float16)], ids=lambda c: c.word)
def test_a_weight_that_was_overwritten_counts(codec: Codec) -> None:
    parts = stored(codec, torch.tensor([1000.3, 1000.3, 0.0]))
    parts[0][0] = 0.5
    parts[0][2] = -2.0
    found = codec.load(parts, (3,))
    assert found[[0, 2]].tolist() == [0.5, -2.0]
    assert found[1] == pytest.approx(1000.3, rel=2e-5)


def test_beside_an_overwritten_weight_a_remainder_is_less_than_a_rounding() -> None:
    parts = stored(Compensated(), torch.tensor([1000.3]))
    parts[0][0] = 0.5
    assert Compensated().load(parts, (1,)).bfloat16().item() == 0.5


@pytest.mark.parametrize("overwritten", [0.0, -0.0, math.inf, -math.inf])
@pytest.mark.parametrize("number", [1000.3, 1000.7, -0.30003, 3e-38])
def test_beside_a_weight_put_to_zero_or_infinity_no_remainder_makes_nan(overwritten: float, number: float) -> None:
    parts = stored(Compensated(), torch.tensor([number]))
    parts[0][0] = overwritten
    found = Compensated().load(parts, (1,))
    assert found.bfloat16().item() == overwritten
    assert not found.isnan().any()


def test_what_rounds_to_infinity_comes_back_finite() -> None:
    number = torch.tensor([3.4028e38, -3.4028e38, 1e-45, -1e-45])
    parts = stored(Compensated(), number)
    assert parts[0].isinf().tolist() == [True, True, False, False]
    assert torch.equal(Compensated().load(parts, (4,)), number)
