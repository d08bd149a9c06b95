"""Symmetric products in tiles, interpreted: what is mirrored is what would have been worked out."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from stepwell.algebra import tensors
from stepwell.algebra.triton_products import symmetric

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="make test-triton runs Triton's interpreter"
)
# One tile, tiles that the matrix does not fill, and a stack. The interpreter knows no bfloat16.
SHAPES = [(1, 16), (32, 48), (70, 40), (3, 33, 50), (129, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_products(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(shape, generator=generator).half()
    x = torch.randn((*shape[:-1], shape[-2]), generator=generator).half()
    x = x + x.mT
    whole = left.double() @ left.double().mT
    # Added up in float32 and rounded once: half a unit of 2⁻¹¹, and the order of the sums.
    tolerance = {"rtol": 2.0**-11, "atol": 1e-5}
    product = symmetric(left, left.mT, side=32, depth=16)
    torch.testing.assert_close(product.double(), whole, **tolerance)
    assert torch.equal(product, product.mT)
    sum_of_both = symmetric(left, left.mT, x, 0.5, -2.0, side=32, depth=16)
    torch.testing.assert_close(sum_of_both.double(), 0.5 * x.double() - 2.0 * whole, **tolerance)


@pytest.mark.parametrize(
    ("shape", "in_tiles"),
    # Of 2048 rows there are 136 tiles, of 1024 rows 36. Other rows than these do not begin at whole words.
    [((2048, 64), True), ((1024, 64), False), ((4, 1024, 64), True), ((2056, 64), False), ((2048, 72), False)],
    ids=str,
)
def test_which_products_are_worked_out_in_tiles(
    shape: tuple[int, ...], in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, shape=shape, ndim=len(shape))
    assert tensors._in_tiles(on_gpu) == in_tiles  # type: ignore[arg-type]


def test_triton_products_of_nothing() -> None:
    assert symmetric(torch.empty(0, 4).half(), torch.empty(4, 0).half()).shape == (0, 0)


def test_triton_products_of_polynomials() -> None:
    # Neither is the other's transpose, but they commute: both are polynomials in one symmetric matrix.
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(40, 40, generator=generator, dtype=torch.float64) / 10
    square = root @ root.mT
    left, right = square.half(), (square @ square + square).half()
    expected = left.double() @ right.double()
    expected = expected.tril() + expected.tril(-1).mT  # rounded, they commute no more: what is below is mirrored
    found = symmetric(left, right, side=16, depth=16)
    torch.testing.assert_close(found.double(), expected, rtol=2.0**-10, atol=2e-3)
