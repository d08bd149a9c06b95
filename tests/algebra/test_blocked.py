"""Symmetric products in blocks and QR decompositions in panels are the whole ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepwell.algebra import blocked, cpu_products, matrices
from stepwell.algebra.blocked import BLOCK, PANEL, in_blocks, in_panels, orthonormal_columns


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=["by torch", "by the kernel"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways; where this processor has no kernel, both are torch's."""
    if request.param == "by torch":
        monkeypatch.setattr(cpu_products, "_kernel", lambda *_: None)


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("rows", [BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 5 * BLOCK + 7])
def test_symmetric_products_in_blocks(rows: int) -> None:
    x = random(rows, 40, seed=rows)
    average = x.flip(1)[:, :7] @ x.flip(1)[:, :7].mT
    before = average.clone()
    exact = x.double() @ x.double().mT
    gram, mixed = matrices.gram(x), matrices.lerp_gram(average, x, 0.25)
    assert in_blocks(x, x.dtype) == (rows > BLOCK)
    torch.testing.assert_close(gram.double(), exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed.double(), 0.75 * average.double() + 0.25 * exact, rtol=0, atol=1e-4)
    assert torch.equal(average, before)
    if rows > BLOCK:  # the mirror image of the blocks right of the diagonal
        assert torch.equal(gram[BLOCK:, :BLOCK], gram[:BLOCK, BLOCK:].mT)


@pytest.fixture(params=["panels", "panels of panels"])
def panels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, whatever the size."""
    monkeypatch.setattr(blocked, "LARGE", 1 if request.param == "panels of panels" else 1 << 30)


SHAPES = [
    (BLOCK + 1, BLOCK + 1),
    (5 * PANEL[0], 5 * PANEL[0]),
    (6 * PANEL[0] + 5, 4 * PANEL[0] + 3),
    (2, 300, 270),
    (2, 2, 280, 257),
]


@pytest.mark.usefixtures("panels")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthonormal_columns_in_panels(shape: tuple[int, ...]) -> None:
    x = random(*shape, dtype=torch.float64)
    assert in_panels(x)
    before = x.clone()
    q = orthonormal_columns(x)
    expected, r = torch.linalg.qr(x)
    torch.testing.assert_close(q, expected * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :], rtol=0, atol=1e-12)
    assert torch.equal(x, before)
    assert torch.equal(matrices.orthonormal_columns(x), q)


@pytest.mark.usefixtures("panels")
@pytest.mark.parametrize("rank", [0, 1, 100, 299])
def test_columns_that_depend_on_others(rank: int) -> None:
    # A factor whose gradients have been few, or zero: Q is orthonormal whatever the columns are.
    x = random(300, rank, seed=rank) @ random(rank, 300, seed=rank + 1)
    x[:, 7] = 0.0
    q = orthonormal_columns(x)
    torch.testing.assert_close(q.mT @ q, torch.eye(300), rtol=0, atol=1e-5)
    below = (q.mT.double() @ x.double()).tril(-1)
    assert below.abs().max() <= 1e-6 * x.double().norm()


@pytest.mark.usefixtures("panels")
def test_columns_of_many_sizes() -> None:
    # As eigenvalues are: Q is that of the columns scaled to one length.
    x = random(320, 320, dtype=torch.float64)
    exact, r = torch.linalg.qr(x)
    q = orthonormal_columns((x * torch.logspace(-18, 15, 320)).float())
    torch.testing.assert_close(q.double(), exact * r.diagonal().sign(), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("panels")
def test_what_is_no_number_is_not_hidden() -> None:
    x = random(300, 300)
    x[5, 130] = torch.nan
    assert orthonormal_columns(x)[:, 130:].isnan().all()


def test_what_is_small_or_wide_or_elsewhere_is_left_to_torch() -> None:
    assert not in_panels(random(BLOCK, BLOCK))
    assert not in_panels(random(300, 400))
    assert not in_panels(random(400, 300).to("meta"))
    assert not in_blocks(random(400, 300).to("meta"), torch.float32)
    assert not in_blocks(random(2, 400, 300), torch.float32)
