"""What 16-bit weights have beside them goes along where both sides keep the same, and is told of where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from checkpoint.small_training import language_model, seed
from conformance.cases import assert_same_bits
from stepwell import checkpoint


def training(master: Any, seeded: int, rule: str = "AdamW") -> tuple[nn.Module, stepwell.Optimizer]:
    seed(seeded)
    model = language_model(dtype=torch.bfloat16)
    kind = stepwell.optimizer_class(rule)
    return model, kind(model.named_parameters(), lr=1e-3, master=master)


def go(model: nn.Module, optimizer: stepwell.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.cos(3 * p.detach())
        optimizer.step()


@pytest.mark.parametrize("master", ["kahan", "compensated", "compensated8", "float32"])
def test_the_same_master_goes_on_to_the_bit(master: str, tmp_path: Path) -> None:
    model, optimizer = training(master, 0)
    go(model, optimizer, 3)
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    other, fresh = training(master, 1)
    migration = checkpoint.migrate(tmp_path, model=other, optimizer=fresh)
    assert all("weight" in one.what.replace("exp_avg", "") for one in migration.moved), str(migration)
    assert migration.notes == ()
    go(model, optimizer, 3)
    go(other, fresh, 3)
    assert_same_bits(list(other.parameters()), list(model.parameters()))


@pytest.mark.parametrize(
    ("here", "there"),
    [("kahan", None), ("float32", "kahan"), ("compensated", "stochastic"), ("compensated8", None)],
)
def test_another_master_starts_from_the_rounded_weights_and_says_so(here: Any, there: Any, tmp_path: Path) -> None:
    model, optimizer = training(here, 0)
    go(model, optimizer, 3)
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    other, fresh = training(there, 1)
    migration = checkpoint.migrate(tmp_path, model=other, optimizer=fresh)
    (note,) = migration.notes
    count = len(list(model.parameters()))
    first = next(name for name, _ in model.named_parameters())
    assert note == (
        f"what was kept beside the weights of {first!r} and {count - 1} more is left behind: they go on as rounded"
    )
    assert_same_bits(list(other.parameters()), list(model.parameters()))
    go(other, fresh, 1)
    assert all(p.isfinite().all() for p in other.parameters())


def test_a_rule_that_starts_fresh_leaves_it_behind(tmp_path: Path) -> None:
    model, optimizer = training("kahan", 0)
    go(model, optimizer, 2)
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    other, fresh = training("kahan", 1, rule="RMSprop")
    migration = checkpoint.migrate(tmp_path, model=other, optimizer=fresh)
    assert {one.how for one in migration.moved} == {"fresh"}
    assert "is left behind" in migration.notes[0]
