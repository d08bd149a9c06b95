"""Every function of matrices gives the same on torch's tensors and on JAX's arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stepwell.algebra import matrices
from stepwell.algebra.matrices import either, normal_like
from stepwell.algebra.tracing import Graph

# Two matrices that are symmetric and positive definite, and two that are wide.
SYMMETRIC = np.array([[[2.0, 1.0], [1.0, 2.0]], [[5.0, 0.0], [0.0, 3.0]]])
WIDE = np.array([[[3.0, 0.0, -4.0], [1.0, 2.0, 2.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, -2.0]]])
HALF = math.sqrt(0.5)

# The function, its argument, and what it gives, worked out by hand.
GIVES: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "row_total": (matrices.row_total, WIDE, [[[-1.0], [5.0]], [[1.0], [-2.0]]]),
    "column_total": (matrices.column_total, WIDE, [[[4.0, 2.0, -2.0]], [[0.0, 1.0, -2.0]]]),
    "frobenius": (matrices.frobenius, WIDE, [[[math.sqrt(34.0)]], [[math.sqrt(5.0)]]]),
    "largest": (matrices.largest, WIDE, [[[4.0]], [[2.0]]]),
    "longest_column": (matrices.longest_column, WIDE, [[[-4.0], [2.0]], [[0.0], [-2.0]]]),
    "gram": (matrices.gram, WIDE, [[[25.0, -5.0], [-5.0, 9.0]], [[1.0, 0.0], [0.0, 4.0]]]),
    "lerp_gram": (
        lambda x: matrices.lerp_gram(matrices.gram(x), x[..., :2], 0.5),  # of the first two columns
        WIDE,
        [[[17.0, -1.0], [-1.0, 7.0]], [[1.0, 0.0], [0.0, 2.0]]],
    ),
    "upper_triangle": (matrices.upper_triangle, SYMMETRIC, [[[2.0, 1.0], [0.0, 2.0]], [[5.0, 0.0], [0.0, 3.0]]]),
    "identity_like": (matrices.identity_like, SYMMETRIC, [[[1.0, 0.0], [0.0, 1.0]]] * 2),
    "filled_like": (lambda x: matrices.filled_like(x, 7.0), WIDE, np.full((2, 2, 3), 7.0)),
    "descending": (lambda x: matrices.descending(x[..., 0, :]), WIDE, [[0, 1, 2], [1, 0, 2]]),
    "take_along": (
        lambda x: matrices.take_along(x, matrices.descending(x[..., :, 1])[..., :, None], -2),
        WIDE,
        np.stack([WIDE[0, ::-1], WIDE[1]]),
    ),
    "join_rows": (lambda x: matrices.join_rows([x[..., 1:, :], x[..., :1, :]]), WIDE, WIDE[:, ::-1]),
    # (2, 1)·(1, 0)ᵀ = 1 down the first column: 1/2, then (0 − 1·1/2)/2.
    "solve_lower": (
        lambda x: matrices.solve_lower(x, matrices.identity_like(x)),
        np.tril(SYMMETRIC),
        [[[0.5, 0.0], [-0.25, 0.5]], [[0.2, 0.0], [0.0, 1 / 3]]],
    ),
    # [[2, 1], [1, 2]] has 3 along (1, 1)/√2 and 1 along (1, −1)/√2; the largest of two equal elements is the first.
    "inverse_root": (
        lambda x: matrices.inverse_root(x, 2, 1.0),
        SYMMETRIC,
        [[[0.25 + HALF / 2, 0.25 - HALF / 2], [0.25 - HALF / 2, 0.25 + HALF / 2]], [[6**-0.5, 0.0], [0.0, 0.5]]],
    ),
    "eigenbasis": (matrices.eigenbasis, SYMMETRIC[1:], [[[1.0, 0.0], [0.0, 1.0]]]),
    # Gram and Schmidt: (3, 1)/√10, and what of (0, 2) stands across it, (−0.6, 1.8), over its length.
    "orthonormal_columns": (
        lambda x: matrices.orthonormal_columns(x[:1, :, :2]),
        WIDE,
        np.array([[[3.0, -1.0], [1.0, 3.0]]]) / math.sqrt(10.0),
    ),
}


def on_torch(function: Callable[[Any], Any], x: Any) -> Any:
    return function(torch.tensor(x)).numpy()


def on_jax(function: Callable[[Any], Any], x: Any) -> Any:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        return np.asarray(jax.jit(function)(jax.numpy.asarray(x)))


KINDS = pytest.mark.parametrize("kind", [on_torch, on_jax])


@KINDS
@pytest.mark.parametrize("name", GIVES)
def test_functions_by_hand(name: str, kind: Callable[..., Any]) -> None:
    function, argument, expected = GIVES[name]
    np.testing.assert_allclose(kind(function, argument), expected, rtol=1e-12, atol=1e-12)


@KINDS
def test_eigenvectors_of_the_largest_value_come_first(kind: Callable[..., Any]) -> None:
    basis = kind(matrices.eigenbasis, SYMMETRIC[0])
    np.testing.assert_allclose(np.abs(basis), HALF)
    np.testing.assert_allclose(basis.T @ SYMMETRIC[0] @ basis, [[3.0, 0.0], [0.0, 1.0]], atol=1e-12)


@KINDS
@pytest.mark.parametrize("function", [matrices.eigenbasis, lambda x: matrices.inverse_root(x, 4, 1e-3)])
def test_what_is_not_finite_is_not_a_number(function: Callable[..., Any], kind: Callable[..., Any]) -> None:
    broken = SYMMETRIC.copy()
    broken[0, 1, 1] = math.inf
    found = kind(function, broken)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


@KINDS
@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (9, 4), (2, 3, 8)], ids=str)
def test_both_libraries_orthogonalize_alike(shape: tuple[int, ...], kind: Callable[..., Any]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    expected = matrices.orthogonalized(torch.tensor(x)).numpy()
    np.testing.assert_allclose(kind(matrices.orthogonalized, x), expected, rtol=1e-10, atol=1e-10)


@KINDS
def test_one_of_two_branches_is_taken(kind: Callable[..., Any]) -> None:
    def function(x: Any) -> Any:
        return either(x[0, 0, 0] > 2.5, lambda: x + 1.0, lambda: x - 1.0)

    np.testing.assert_array_equal(kind(function, WIDE), WIDE + 1.0)
    np.testing.assert_array_equal(kind(function, SYMMETRIC), SYMMETRIC - 1.0)


def test_a_branch_that_is_not_taken_is_not_worked_out() -> None:
    assert either(True, lambda: 1.0, lambda: 1 / 0) == 1.0
    assert either(2 > 3, lambda: 1 / 0, lambda: 2.0) == 2.0
    step = Graph().symbol("step")
    with pytest.raises(TypeError, match=r"may not branch on the number .* use where"):
        either(step > 1, lambda: 1.0, lambda: 2.0)


@pytest.mark.parametrize("seed", [0, 1, 77, 100_000])
def test_normal_numbers(seed: int) -> None:
    # 10,000 numbers: their mean is 0 within 4/√10,000, their square's 1 within 4·√(2/10,000), and the share beyond
    # 1.96 is 5 % within 4·√(0.05·0.95/10,000). Neighbours and the next seed's are independent.
    z = normal_like(torch.zeros(80, 125, dtype=torch.float64), seed)
    assert abs(float(z.mean())) < 0.04
    assert abs(float(z.square().mean()) - 1) < 0.057
    assert abs(float((z.abs() > 1.96).double().mean()) - 0.05) < 0.0088
    other = normal_like(torch.zeros(80, 125, dtype=torch.float64), seed + 1)
    for a, b in ((z, other), (z[1:], z[:-1]), (z[:, 1:], z[:, :-1])):
        assert abs(float((a * b).mean())) < 0.042
    assert len(z.unique()) == z.numel()


def test_normal_numbers_are_the_same_everywhere() -> None:
    jax = pytest.importorskip("jax")
    x = torch.zeros(2, 3, 5)
    expected = normal_like(x, 7)
    assert torch.equal(expected[0], expected[1])  # of a stack, each matrix has the same
    found = jax.jit(lambda like, seed: normal_like(like, seed))(jax.numpy.zeros((2, 3, 5)), 7)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert normal_like(x.to("meta"), 7).shape == x.shape
    assert normal_like(x.bfloat16(), 7).dtype == torch.bfloat16


def test_columns_and_rows_by_their_places() -> None:
    x, order = torch.arange(12.0).reshape(3, 4), torch.tensor([2, 0, 3, 1])
    assert matrices.take_columns(x, order).tolist() == [
        [2.0, 0.0, 3.0, 1.0],
        [6.0, 4.0, 7.0, 5.0],
        [10.0, 8.0, 11.0, 9.0],
    ]
    assert matrices.take_along(x, torch.tensor([[2], [0], [1]]), 0).tolist() == x[[2, 0, 1]].tolist()
    each = torch.tensor([[3], [0], [1]])  # another place in every row
    assert matrices.take_along(x, each, 1).tolist() == [[3.0], [4.0], [9.0]]
