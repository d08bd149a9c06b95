"""A symmetric sum that waits is a tensor to whoever asks, and goes to its own place without a copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stepwell.algebra import lerp, matrices, where
from stepwell.algebra.blocked import BLOCK
from stepwell.algebra.postponed import SymmetricSum, in_turn

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


def test_it_goes_to_a_place_of_another_shape() -> None:
    # As the weights of a convolution, which the rule sees as a matrix.
    average, factor = average_and_factor()
    wanted = expected(average, factor)
    shape = (ROWS, 5, ROWS // 5)
    matrices.lerp_gram(average, factor, 0.25).write_to(average.view(shape))
    torch.testing.assert_close(average, wanted, rtol=1e-5, atol=1e-5)
    other = torch.empty(shape)
    matrices.lerp_gram(wanted.clone(), factor, 0.25).write_to(other)
    torch.testing.assert_close(other.reshape(ROWS, ROWS), expected(wanted, factor), rtol=1e-5, atol=1e-5)


def test_what_would_not_gain_is_worked_out_at_once() -> None:
    average, factor = average_and_factor()
    assert type(matrices.lerp_gram(average, torch.randn(ROWS, ROWS + 1), 0.25)) is Tensor
    assert type(matrices.lerp_gram(average.expand(2, -1, -1), torch.randn(2, ROWS, 3), 0.25)) is Tensor
    with pytest.raises(RuntimeError):
        matrices.lerp_gram(average[1:, 1:], factor, 0.25)
    with pytest.raises(RuntimeError):
        matrices.lerp_gram(average.double(), factor, 0.25)


def test_a_sum_waits_where_nothing_else_is_made_of_what_it_is_written_over() -> None:
    b, factor = average_and_factor()
    a, total = torch.zeros(ROWS, ROWS), matrices.lerp_gram(b, factor, 0.25)
    old = {"a": a, "b": b}
    found = in_turn({"a": 1.0 * b, "b": total}, old)
    assert (list(found), found["b"]) == (["b", "a"], total)
    for new in ({"a": b, "b": total}, {"a": total, "b": total}, {"a": total, "b": 1.0 * b}):
        total = matrices.lerp_gram(b, factor, 0.25)
        found = in_turn({name: total if type(x) is SymmetricSum else x for name, x in new.items()}, old)
        assert list(found) == ["a", "b"]
        assert all(type(x) is Tensor for x in found.values())
