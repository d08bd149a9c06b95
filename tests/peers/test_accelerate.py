"""Accelerate advances a scheduler that it has prepared once for each process; counting steps does not mind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stepwell
from peers.loops import Counting, Model

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("counts", ["calls", "steps"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_scheduler_that_accelerate_calls_once_for_each_process(
    counts: Any, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=2, cpu=True)
    model = Model()
    counting = Counting(model.parameters(), lr=1e-3)
    optimizer = accelerator.prepare(counting)
    given = optimizer if wrapped else counting
    inner = stepwell.Scheduler(given, lr=stepwell.schedules.Linear(), horizon=10, counts=counts)
    scheduler = accelerator.prepare(inner)
    two = type("State", (), {"num_processes": 2})
    monkeypatch.setattr("accelerate.scheduler.AcceleratorState", two)
    for x in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.tensor([float(x)]))["loss"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert counting.taken == 3
    assert inner.last_epoch == {"calls": 6, "steps": 3}[counts]  # the former is Accelerate's way
