"""What many ranks work out together is what one works out alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from layout.ranks import on_ranks
from layout.trainings import RULES, all_trained, trained
from stepwell.algebra.tensors import working_dtype

WAYS = {
    1: ["ddp", "zero", "fsdp"],
    2: ["ddp", "zero", "fsdp", "tp"],
    4: ["ddp", "zero", "fsdp", "tp", "fsdp + tp", "hsdp"],
}
SOME = ["AdamW", "LAMB", "Adafactor", "Prodigy", "Muon"]
# The ranks add gradients up in another order than one does; the clipping norm, the moments and the weights follow.
TOLERANCE = {torch.float32: {"rtol": 2e-4, "atol": 2e-5}, torch.float64: {"rtol": 1e-7, "atol": 1e-9}}


def tolerance(rule: str, dtype: torch.dtype) -> dict[str, float]:
    """How far apart they may be: matrices are multiplied in bfloat16 where the machine is fast at it."""
    if RULES[rule].acts_on == "matrices" and working_dtype(torch.device("cpu"), dtype) == torch.bfloat16:
        return {"rtol": 2e-2, "atol": 2e-4}
    return TOLERANCE[dtype]


def check(found: dict[str, Any], expected: dict[str, Any], allowed: dict[str, float], what: str) -> None:
    assert found.keys() == expected.keys(), what
    for name, value in expected.items():
        there, here = (one if isinstance(one, Tensor) else torch.tensor(one) for one in (found[name], value))
        torch.testing.assert_close(there, here, **allowed, msg=lambda text, name=name: f"{what}, {name}: {text}")


def compare(ranks: int, names: list[str], dtype: torch.dtype, backend: str = "gloo") -> None:
    """With one process on the CPU."""
    expected = {rule: trained(rule, "one", dtype) for rule in names}
    results = on_ranks(all_trained, ranks, names, WAYS[ranks], dtype, backend=backend)
    for rank, result in enumerate(results):
        for (rule, way), found in result.items():
            check(found, expected[rule], tolerance(rule, dtype), f"{rule} under {way}, rank {rank} of {ranks}")


def test_two_ranks_equal_one() -> None:
    compare(2, SOME, torch.float32)


def with_gaps(way: str) -> list[Tensor]:
    """Weights of which one rank's part has gaps in memory, the other's none (it is empty), beside others."""
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=generator) for shape in ((6, 3), (6, 3), (8, 4))]
    parameters = [nn.Parameter(each) for each in (plain[0].t()[:1], plain[1].t(), plain[2])]
    optimizer = stepwell.AdamW(parameters, lr=0.1, shard_state=way == "zero")
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in parameters]


def test_ranks_that_share_new_weights_choose_the_same_engine() -> None:
    expected = with_gaps("one")
    for found in on_ranks(with_gaps, 2, "zero"):
        torch.testing.assert_close(found, expected, **TOLERANCE[torch.float32])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_kind_of_rule_on_every_kind_of_mesh(ranks: int) -> None:
    """In float64: SOAP's and Shampoo's bases are not determined where a gradient of few samples has no direction, and
    in float32 rounding decides there."""
    compare(ranks, list(RULES), torch.float64)


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_over_nccl(ranks: int) -> None:
    """A GPU for each rank; in float64, for a GPU's products in float32 are others."""
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"torch sees fewer than {ranks} CUDA devices")
    compare(ranks, list(RULES), torch.float64, backend="nccl")
