"""Checkpoints: every rule goes on with the same bits, interrupted at any step, in 32 and in 16 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conformance.cases import CASES, PLAIN_CASES, Case, assert_same_bits, rows
from conformance.storage import SHAPES, STORAGES, Kept, fits
from conformance.training import copies, numbers_of, parameter, parameters_of, slots_of, train, weights
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


STORED = [
    pytest.param(case, kept, id=f"{case.name}-{kept}")
    for case in PLAIN_CASES
    for kept in STORAGES
    if fits(case.rule, kept)
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kept"), STORED)
def test_every_rule_goes_on_in_every_storage(case: Case, kept: Kept, tmp_path: Path) -> None:
    """In 32, 16, 8 and 4 bits, and with what is rounded by chance."""
    shapes = case.shapes if case.rule.acts_on == "matrices" else SHAPES

    def made() -> tuple[torch.nn.Module, Optimizer]:
        model = torch.nn.Module()
        for name, (seed, shape) in zip(NAMES, enumerate(shapes), strict=False):
            model.register_parameter(name, torch.nn.Parameter(parameter(shape, kept.dtype, seed).detach()))
        return model, Optimizer(model.named_parameters(), case.rule, engine="foreach", **kept.options)

    model, whole = made()
    train(whole, whole.param_groups[0]["params"], last=2)
    checkpoint.save(tmp_path, model=model, optimizer=whole)
    model, resumed = made()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7)
    assert not checkpoint.load(tmp_path, model=model, optimizer=resumed).differences
    for each in (whole, resumed):
        train(each, each.param_groups[0]["params"], first=3, last=4)
    assert_same_bits(parameters_of(resumed), parameters_of(whole))
    assert_same_bits(slots_of(resumed), slots_of(whole))
    assert numbers_of(resumed) == numbers_of(whole)
