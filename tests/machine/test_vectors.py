"""What the intrinsics of vector registers write: every word where it belongs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from stepwell.machine import code
from stepwell.machine.vectors import tile_of, transposition_of

LANES = [
    pytest.param(lanes, marks=pytest.mark.skipif(lanes > code.lanes(), reason="narrower registers"))
    for lanes in (8, 16)
]


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.ctypes.data)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("in_place", [False, True])
def test_rows_become_columns(lanes: int, in_place: bool) -> None:
    transpose = transposition_of(lanes)

    @numba.njit
    def run(source: Any, source_row: Any, target: Any, target_row: Any) -> None:
        transpose(source, source_row, target, target_row)

    given = np.arange(lanes * (lanes + 3), dtype=np.int32).reshape(lanes, lanes + 3)
    expected = given[:, :lanes].T.copy()
    target = given if in_place else np.zeros((lanes, lanes + 5), dtype=np.int32)
    run(address(given), given.strides[0], address(target), target.strides[0])
    assert np.array_equal(target[:, :lanes], expected)
    assert in_place or not target[:, lanes:].any()


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_product_is_added_to_a_tile(lanes: int, vectors: int, steps: int) -> None:
    add_product = tile_of(lanes, vectors, pairs=False)

    @numba.njit
    def run(left: Any, right: Any, panel: Any, tile: Any, tile_row: Any, count: Any) -> None:
        add_product(left, right, panel, tile, tile_row, count)

    random = np.random.default_rng(0)
    left = random.integers(-9, 10, (steps, lanes)).astype(np.float32)  # a panel: of each step its words
    right = random.integers(-9, 10, (vectors, steps, lanes)).astype(np.float32)
    tile = random.integers(-9, 10, (lanes // 2, vectors * lanes + 7)).astype(np.float32)
    columns = right.transpose(1, 0, 2).reshape(steps, vectors * lanes)
    expected = tile.copy()
    expected[:, : vectors * lanes] += left[:, : lanes // 2].T @ columns
    run(address(left), address(right), right.strides[0], address(tile), tile.strides[0], steps)
    assert np.array_equal(tile, expected)


@pytest.mark.skipif(not code.multiplies_pairs(), reason="this processor does not multiply pairs")
def test_of_a_pair_both_products_are_added() -> None:
    add_product = tile_of(16, 1, pairs=True)

    @numba.njit
    def run(left: Any, right: Any, tile: Any) -> None:
        add_product(left, right, 0, tile, 64, 2)

    def bfloat16(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    random = np.random.default_rng(0)
    left, right = random.integers(-9, 10, (2, 16, 2)), random.integers(-9, 10, (2, 16, 2))
    tile = np.ones((8, 16), dtype=np.float32)
    run(address(packed := bfloat16(left)), address(other := bfloat16(right)), address(tile))
    assert packed.dtype == other.dtype
    assert np.array_equal(tile, 1 + np.einsum("srp,scp->rc", left[:, :8], right))
