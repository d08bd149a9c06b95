"""Checkpoints: every rule goes on with the same bits, interrupted at any step, in 32 and in 16 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conformance.cases import CASES, Case, assert_same_bits, rows
from conformance.training import copies, numbers_of, parameters_of, slots_of, train, weights
from stepwell import Optimizer, checkpoint

STEPS = 4
NAMES = ("a", "b", "c", "d", "e", "f")


def made(case: Case, dtype: torch.dtype) -> tuple[torch.nn.Module, Optimizer]:
    """A model of the case's parameters, and its optimizer."""
    model = torch.nn.Module()
    for name, p in zip(NAMES, weights(case, dtype), strict=True):
        model.register_parameter(name, torch.nn.Parameter(p.detach()))
    return model, Optimizer(model.named_parameters(), case.rule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@rows(CASES)
def test_interrupted_at_any_step(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    model, optimizer = made(case, dtype)
    saved = [checkpoint.save(tmp_path, model=model, optimizer=optimizer)]
    for step in range(1, STEPS + 1):
        train(optimizer, optimizer.param_groups[0]["params"], first=step, last=step)
        saved.append(checkpoint.save(tmp_path, model=model, optimizer=optimizer))
    expected = copies(parameters_of(optimizer)), copies(slots_of(optimizer)), numbers_of(optimizer)
    for step, where in enumerate(saved):
        model, resumed = made(case, dtype)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(7)
        assert not checkpoint.load(where, model=model, optimizer=resumed).differences
        train(resumed, resumed.param_groups[0]["params"], first=step + 1, last=STEPS)
        assert_same_bits(parameters_of(resumed), expected[0])
        assert_same_bits(slots_of(resumed), expected[1])
        assert numbers_of(resumed) == expected[2]
        assert [slot.dtype for slot in slots_of(resumed)] == [slot.dtype for slot in expected[1]]
