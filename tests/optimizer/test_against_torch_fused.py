"""In 16 bits the fused engine gives the bits of torch's fused Adam and AdamW: what the docs say of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from conformance.training import copies, parameter, train

STEPS = 20
SHAPES = ((1500,), (33, 17), (20_000,))
VALUES = {
    "plain": {"lr": 0.01},
    "decay": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    "amsgrad": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "amsgrad": True},
}
# The distance of neighbours, as a share of the number.
SPACING = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def trained(library: Any, name: str, dtype: torch.dtype, **arguments: Any) -> Tensor:
    parameters = [parameter(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]
    train(getattr(library, name)(parameters, **arguments), parameters, last=STEPS)
    return torch.cat([p.flatten() for p in copies(parameters)])


@pytest.mark.parametrize("dtype", SPACING, ids=str)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_in_16_bits_is_torchs_fused(name: str, values: dict[str, Any], dtype: torch.dtype) -> None:
    # Both work in float32 and round once. Their operations differ in order, so that one in thousands, which lies in the
    # middle between two neighbours, is rounded to the other and goes on from there.
    ours = trained(stepwell, name, dtype, engine="fused", **values)
    theirs = trained(torch.optim, name, dtype, fused=True, **values)
    assert float((ours != theirs).float().mean()) < 1e-3
    largest = float(theirs.abs().max())
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=SPACING[dtype] * largest)


@pytest.mark.parametrize("dtype", SPACING, ids=str)
def test_sgd_in_16_bits_moves_every_weight(dtype: torch.dtype) -> None:
    # torch 2.13's fused one moves only what is left over at the end of a tensor after whole vectors (issue 191763).
    p = torch.zeros(1000, dtype=dtype, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = stepwell.SGD([p], lr=0.5, momentum=0.5, engine="fused")
    optimizer.step()
    assert p.tolist() == [-0.5] * 1000
    optimizer.step()
    assert p.tolist() == [-1.25] * 1000  # −0.5 − 0.5·(0.5 + 1)
