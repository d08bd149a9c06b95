"""A load never holds two copies of what it loads, and a save never one of what it saves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import stepwell
from bench.memory import resident_peak
from stepwell import checkpoint
from stepwell.checkpoint.tensorfile import PIECE

WEIGHTS = 24_000_000  # 92 MiB of weights, 184 MiB of AdamW's state; the biggest tensor has half of it
# Bytes: up to three pieces a thread (one that is written, one before it, whose checksum is under way, and one that is
# made), and what Python takes. On two cores it is less than the biggest tensor.
SLACK = 3 * PIECE * min(4, os.cpu_count() or 1) + (16 << 20)


def training() -> tuple[nn.Module, stepwell.Optimizer]:
    half = WEIGHTS // 2
    model = nn.Module()
    for name, shape in {"big": (half // 1000, 1000), "a": (half // 4000, 1000), "b": (half // 4 * 3,)}.items():
        model.register_parameter(name, nn.Parameter(torch.ones(shape)))
    return model, stepwell.Optimizer(model.named_parameters(), stepwell.rules.AdamW())


def peak_of(step: Callable[[], object]) -> int:
    grown = resident_peak(step)
    if grown is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    return grown


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["contiguous", "turned"])
def test_peaks(layout: str, tmp_path: Path) -> None:
    model, optimizer = training()
    if layout == "turned":  # a tensor that cannot be read into as a whole
        model.big = nn.Parameter(model.big.detach().t().contiguous().t())
        optimizer = stepwell.Optimizer(model.named_parameters(), stepwell.rules.AdamW())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()

    def save() -> None:
        checkpoint.save(tmp_path, model=model, optimizer=optimizer, keep=1)

    save()
    assert peak_of(save) <= SLACK
    checkpoint.load(tmp_path, model=model, optimizer=optimizer)
    assert peak_of(lambda: checkpoint.load(tmp_path, model=model, optimizer=optimizer)) <= SLACK  # all in place
    fresh = stepwell.Optimizer(model.named_parameters(), stepwell.rules.AdamW())
    grown = peak_of(lambda: checkpoint.load(tmp_path, model=model, optimizer=fresh))
    assert grown <= 8 * WEIGHTS + SLACK
    assert grown >= 6 * WEIGHTS  # it is measured at all
