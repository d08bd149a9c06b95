"""A symmetric sum that waits is a tensor to whoever asks, and goes to its own place without a copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stepwell.algebra import lerp, matrices, where
from stepwell.algebra.blocked import BLOCK
from stepwell.algebra.postponed import SymmetricSum

ROWS = BLOCK + 9


def average_and_factor() -> tuple[Tensor, Tensor]:
    average, factor = torch.randn(ROWS, ROWS), torch.randn(ROWS, 30)
    return average + average.mT, factor


def expected(average: Tensor, factor: Tensor) -> Tensor:
    return (0.75 * average.double() + 0.25 * (factor.double() @ factor.double().mT)).float()


ASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "product from the left": lambda x: x @ torch.ones(ROWS, 2),
    "product from the right": lambda x: torch.ones(2, ROWS) @ x,
    "arithmetic": lambda x: 2.0 * x - x / 3.0 + 1.0,
    "functions": lambda x: where(x > 0, lerp(x, x + 1.0, 0.5), 0.0),
    "a part": lambda x: x[3:, 5],
    "in a list": lambda x: torch.stack([x, x]),
    "by keyword": lambda x: torch.add(input=x, other=x),
    "transposed": lambda x: x.mT.reshape(-1),
    "written": lambda x: torch.empty(ROWS, ROWS).copy_(x),
    "total": lambda x: x.sum(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_it_is_a_tensor_to_whoever_asks(asked: str) -> None:
    average, factor = average_and_factor()
    waiting = matrices.lerp_gram(average, factor, 0.25)
    assert isinstance(waiting, SymmetricSum)
    assert (waiting.shape, waiting.ndim, waiting.dtype, waiting.device) == (
        (ROWS, ROWS),
        2,
        torch.float32,
        average.device,
    )
    before = average.clone()
    given = ASKED[asked](waiting)
    assert type(given) is Tensor
    torch.testing.assert_close(given, ASKED[asked](expected(average, factor)), rtol=1e-4, atol=1e-3)
    assert torch.equal(average, before)


def test_it_goes_to_its_place_without_a_copy() -> None:
    average, factor = average_and_factor()
    wanted = expected(average, factor)
    waiting = matrices.lerp_gram(average, factor, 0.25)
    waiting.write_to(average)
    torch.testing.assert_close(average, wanted, rtol=1e-5, atol=1e-5)
    assert waiting._whole is None


def test_whoever_has_asked_before_keeps_what_was_given() -> None:
    average, factor = average_and_factor()
    wanted = expected(average, factor)
    waiting = matrices.lerp_gram(average, factor, 0.25)
    doubled, given = 2.0 * waiting, waiting.whole
    waiting.write_to(average)
    assert torch.equal(average, given)
    assert given is not average
    torch.testing.assert_close(doubled, 2.0 * wanted, rtol=1e-5, atol=1e-5)


def test_it_goes_to_another_place_as_a_copy() -> None:
    average, factor = average_and_factor()
    before, wanted = average.clone(), expected(average, factor)
    other = torch.empty(ROWS, ROWS, dtype=torch.float64)
    matrices.lerp_gram(average, factor, 0.25).write_to(other)
    torch.testing.assert_close(other.float(), wanted, rtol=1e-5, atol=1e-5)
    transposed = average.mT  # the same memory, in another order
    matrices.lerp_gram(average, factor, 0.25).write_to(transposed)
    torch.testing.assert_close(transposed, expected(before, factor), rtol=1e-5, atol=1e-5)


def test_what_it_multiplies_may_be_where_it_is_written() -> None:
    average, _ = average_and_factor()
    wanted = expected(average, average)
    matrices.lerp_gram(average, average, 0.25).write_to(average)
    torch.testing.assert_close(average, wanted, rtol=1e-4, atol=1e-3)


def test_sums_of_each_other() -> None:
    first, second = average_and_factor()[0], average_and_factor()[0]
    wanted = expected(first, second), expected(second, first)
    sums = matrices.lerp_gram(first, second, 0.25), matrices.lerp_gram(second, first, 0.25)
    sums[0].settle([sums[1]])
    sums[1].settle([sums[0]])
    sums[0].write_to(first)
    sums[1].write_to(second)
    torch.testing.assert_close(first, wanted[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(second, wanted[1], rtol=1e-4, atol=1e-3)
