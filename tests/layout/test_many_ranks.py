"""What many ranks work out together is what one works out alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from layout.ranks import on_ranks
from layout.trainings import RULES, all_trained, trained

WAYS = {
    1: ["ddp", "zero", "fsdp"],
    2: ["ddp", "zero", "fsdp", "tp"],
    4: ["ddp", "zero", "fsdp", "tp", "fsdp + tp", "hsdp"],
}
SOME = ["AdamW", "LAMB", "Adafactor", "Prodigy", "Muon"]


def check(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    assert found.keys() == expected.keys(), what
    for name, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(
                found[name], value, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{what}, {name}: {text}"
            )
        else:
            assert found[name] == pytest.approx(value, rel=1e-4), f"{what}, {name}"


def compare(ranks: int, names: list[str]) -> None:
    expected = {rule: trained(rule, "one") for rule in names}
    results = on_ranks(all_trained, ranks, names, WAYS[ranks])
    for rank, result in enumerate(results):
        for (rule, way), found in result.items():
            check(found, expected[rule], f"{rule} under {way}, rank {rank} of {ranks}")


def test_two_ranks_equal_one() -> None:
    compare(2, SOME)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_kind_of_rule_on_every_kind_of_mesh(ranks: int) -> None:
    compare(ranks, list(RULES))
