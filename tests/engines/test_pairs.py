"""Numbers of 16 bits that a kernel works on two at a time: the last of an odd number stands alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stepwell import Optimizer, rules
from stepwell.engines.batch import Batch

STORAGES: tuple[dict[str, Any], ...] = (
    {},
    {"master": "stochastic", "state_dtype": "bfloat16"},
    {"master": "kahan", "state_dtype": "bfloat16"},
    {"master": "compensated", "state_dtype": "bfloat16"},
    {"master": "compensated8", "state_dtype": "bfloat16"},
)


def stepped(size: int, offset: int, storage: dict[str, Any], engine: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor of so many bfloat16 after three steps, so far into a memory; and that memory beside it."""
    generator = torch.Generator().manual_seed(size)
    memory = torch.full((offset + size + 3,), 7.0, dtype=torch.bfloat16)
    p = memory[offset : offset + size].copy_(torch.randn(size, generator=generator)).requires_grad_()
    optimizer = Optimizer([p], rules.AdamW(lr=0.01), engine=engine, rounding_seed=3, **storage)
    for _ in range(3):
        p.grad = torch.randn(size, generator=generator).to(torch.bfloat16)
        optimizer.step()
    return p.detach(), torch.cat((memory[:offset], memory[offset + size :]))


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.get("master", "nearest"))
@pytest.mark.parametrize("size", [1, 2, 3, 33, 1024, 5001])
@pytest.mark.parametrize("offset", [0, 1])
def test_pairs_have_the_bits_of_single_numbers(size: int, offset: int, storage: dict[str, Any]) -> None:
    found, beside = stepped(size, offset, storage, "fused")
    expected, _ = stepped(size, 0, storage, "foreach")
    assert torch.equal(found, expected)
    assert bool((beside == 7.0).all())


@pytest.mark.parametrize("origin", [1, 2, 2**32 - 301])
@pytest.mark.parametrize("state", ["bfloat16", "float32", "8bit", "4bit"])
def test_random_bits_of_a_part_that_begins_anywhere(state: str, origin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours of one hash may lie on two ranks, and places are counted modulo 2³²."""
    monkeypatch.setattr(Batch, "origins", property(lambda batch: np.full(len(batch.weights), origin)))
    storage = {"master": "stochastic", "state_dtype": state}
    (found, _), (expected, _) = (stepped(5001, 0, storage, engine) for engine in ("fused", "foreach"))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [1, 2, 4097])
def test_sums_over_pairs_are_those_of_single_numbers(size: int) -> None:
    # Whole numbers, whose squares add up without rounding.
    gradient = torch.arange(size, dtype=torch.float32).remainder(64).to(torch.bfloat16)
    p = torch.zeros(size, dtype=torch.bfloat16, requires_grad=True)
    p.grad = gradient
    optimizer = Optimizer([p], rules.SGD(lr=0.0), engine="fused", clip_norm=1.0)
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(float(gradient.double().square().sum().sqrt()), rel=1e-12)
