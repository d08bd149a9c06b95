"""Symmetric products by the kernel of a CPU are torch's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell.algebra import cpu_products, matrices
from stepwell.algebra.cpu_products import LEAST, VECTORS, serves, write_symmetric

pytest.importorskip("llvmlite")
from stepwell.machine import code

if not code.lanes():
    pytest.skip("this processor has no registers that the kernel is written for", allow_module_level=True)

HALF, FULL = torch.bfloat16, torch.float32
pairs_only = pytest.mark.skipif(not code.multiplies_pairs(), reason="this processor does not multiply pairs")
DTYPES = [pytest.param(HALF, HALF, marks=pairs_only), pytest.param(HALF, FULL, marks=pairs_only), (FULL, FULL)]


@pytest.fixture(autouse=True)
def _without_amx(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel of pairs is tested also where torch's own is faster."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    cpu_products._kernel.cache_clear()
    yield
    cpu_products._kernel.cache_clear()


@pytest.fixture(params=[8, 16])
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Registers of both widths, as far as this processor has them."""
    width: int = request.param
    if width > code.lanes():
        pytest.skip(f"this processor has registers of {code.lanes()} words")
    monkeypatch.setattr(cpu_products, "_lanes", lambda: width)
    return width


def whole(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers from −2 to 2, of which sums of products are exact in float32."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


LAYOUTS = {
    "rows": lambda rows, inner, dtype: whole(rows, inner, dtype=dtype),
    "columns": lambda rows, inner, dtype: whole(inner, rows, dtype=dtype).mT,
    "part of rows": lambda rows, inner, dtype: whole(rows + 3, inner + 5, dtype=dtype)[3:, 5:],
    "part of columns": lambda rows, inner, dtype: whole(inner + 1, rows + 1, dtype=dtype)[1:, 1:].mT,
    "gaps": lambda rows, inner, dtype: whole(rows, 2 * inner, dtype=dtype)[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [LEAST, LEAST + 1, 3 * 4 * VECTORS * 16 + 17])
@pytest.mark.parametrize("inner", [1, 2, 31, 32, 33, 257, 300])
@pytest.mark.parametrize(("taken", "given"), DTYPES)
def test_products_of_whole_numbers_are_exact(
    layout: str, rows: int, inner: int, taken: torch.dtype, given: torch.dtype
) -> None:
    left = LAYOUTS[layout](rows, inner, taken)
    average = whole(rows, rows, dtype=given, seed=1)
    average = average + average.mT
    exact = left.double() @ left.double().mT
    assert serves(left, taken, given)
    out = torch.full((rows, rows), torch.nan, dtype=given)
    write_symmetric(out, left, left.mT)
    assert torch.equal(out, exact.to(given))
    write_symmetric(out, left, left.mT, average, 4.0, 0.5)
    mixed = (4.0 * average.double() + 0.5 * exact).to(given)
    assert torch.equal(out, mixed)
    write_symmetric(average, left, left.mT, average, 4.0, 0.5)
    assert torch.equal(average, mixed)


@pytest.mark.parametrize(("taken", "given"), DTYPES[2:])
@pytest.mark.parametrize("inner", [1, 33, 300])
def test_registers_of_every_width(lanes: int, inner: int, taken: torch.dtype, given: torch.dtype) -> None:
    rows = LEAST + lanes + 3
    for left in (whole(rows, inner, dtype=taken), whole(inner, rows, dtype=taken).mT):
        out = torch.full((rows, rows), torch.nan, dtype=given)
        write_symmetric(out, left, left.mT, torch.ones_like(out), 2.0, 1.0)
        assert torch.equal(out, 2.0 + left @ left.mT)


@pytest.mark.parametrize(("taken", "given"), DTYPES)
def test_powers_of_a_symmetric_matrix(taken: torch.dtype, given: torch.dtype) -> None:
    x = whole(400, 400, dtype=taken)
    x = x + x.mT
    square = (x.double() @ x.double()).clamp(-128, 128).to(taken)
    square = torch.where(square.double() == square.double().round(), square, 0)
    for left, right in ((x, x), (x, (2 * x)), (x, x.mT), (x.mT, x)):
        out = torch.empty(400, 400, dtype=given)
        write_symmetric(out, left, right)
        assert torch.equal(out, (left.double() @ right.double()).to(given))


@pytest.mark.parametrize(("taken", "given"), DTYPES)
def test_the_same_bits_whatever_the_threads(taken: torch.dtype, given: torch.dtype, set_threads: Any) -> None:
    left = torch.randn(900, 700, generator=torch.Generator().manual_seed(0)).to(taken)
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(torch.empty(900, 900, dtype=given))
        write_symmetric(found[-1], left, left.mT)
    assert torch.equal(found[0], found[0].mT)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_memory_for_threads_lies_on_the_cpu_whatever_the_default_device() -> None:
    left = whole(LEAST, 5, dtype=torch.float32)
    out = torch.empty(LEAST, LEAST)
    with torch.device("meta"):
        write_symmetric(out, left, left.mT)
    assert torch.equal(out, left @ left.mT)


@pytest.mark.parametrize(("taken", "given"), DTYPES)
def test_what_is_not_finite_stays_so(taken: torch.dtype, given: torch.dtype) -> None:
    left = whole(500, 40, dtype=taken)
    left[7, 3], left[450, 0] = torch.nan, torch.inf
    out = torch.empty(500, 500, dtype=given)
    write_symmetric(out, left, left.mT)
    exact = left.float() @ left.float().mT
    assert torch.equal(out.isnan(), exact.isnan())
    assert torch.equal(out.isinf(), exact.isinf())


@pytest.mark.parametrize("given", [pytest.param(HALF, marks=pairs_only), FULL])
def test_results_are_rounded_to_the_nearest(given: torch.dtype) -> None:
    left = torch.randn(400, 65, generator=torch.Generator().manual_seed(0)).bfloat16()
    taken = HALF if given == HALF else FULL
    out = torch.empty(400, 400, dtype=given)
    write_symmetric(out, left.to(taken), left.mT.to(taken))
    exact = left.double() @ left.double().mT
    # Half a unit in the last of 8 bits, and of 24 in each sum of 65.
    sums = 65 * 2.0**-24 * (left.double().abs() @ left.double().abs().mT)
    assert bool(((out.double() - exact).abs() <= sums + (2.0**-8 if given == HALF else 0.0) * exact.abs()).all())


def test_what_is_left_to_torch() -> None:
    x = torch.ones(LEAST, 8)
    assert serves(x, FULL, FULL)
    assert not serves(x[1:], FULL, FULL)
    assert not serves(x[:, :0], FULL, FULL)
    assert not serves(x.expand(2, LEAST, 8), FULL, FULL)
    assert not serves(x.to("meta"), FULL, FULL)
    assert not serves(x.double(), torch.float64, torch.float64)
    assert not serves(x.half(), torch.float16, torch.float16)
    assert not serves(x, FULL, HALF)
    assert not serves(x.clone().requires_grad_(), FULL, FULL)
    with torch.no_grad():
        assert serves(x.clone().requires_grad_(), FULL, FULL)


def test_gradients_run_through_a_product() -> None:
    x = torch.randn(LEAST, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    matrices.gram(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach().sum(0).expand(x.shape))


def test_without_a_compiler_torch_serves_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("a kernel has to be compiled, and Numba cannot be imported")

    monkeypatch.setattr(code, "Code", failing)
    x = whole(LEAST, 10, dtype=FULL)
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        assert torch.equal(matrices.gram(x), x @ x.mT)
        assert torch.equal(matrices.gram(x), x @ x.mT)
    assert [record.message for record in caplog.records] == [
        "torch works symmetric products of matrices out, not a kernel of stepwell's: "
        "a kernel has to be compiled, and Numba cannot be imported"
    ]


@pairs_only
def test_a_rough_product_is_added_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.algebra.tensors._bfloat16_is_fast", lambda _: True)
    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    average = torch.eye(400)
    found = matrices.lerp_rough_gram(average, x, 0.25) + 0.0
    rough = x.bfloat16().double()
    torch.testing.assert_close(found.double(), 0.75 * average.double() + 0.25 * rough @ rough.mT, rtol=1e-6, atol=1e-5)
    assert found.dtype == FULL


def test_a_rough_product_is_exact_where_bfloat16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.algebra.tensors._bfloat16_is_fast", lambda _: False)
    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    found = matrices.lerp_rough_gram(torch.zeros(400, 400), x, 1.0) + 0.0
    torch.testing.assert_close(found.double(), x.double() @ x.double().mT, rtol=1e-6, atol=1e-4)
