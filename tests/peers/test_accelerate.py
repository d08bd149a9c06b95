"""Accelerate really trains on one and two processes; it advances a scheduler that it has prepared once for each
process, and counting steps does not mind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from peers import accelerated
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


def run(processes: int, folder: Path, precision: str) -> list[list[dict[str, Any]]]:
    """What each process has written down."""
    launched = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    source, tests = Path(stepwell.__file__).parent.parent, Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    command = [*launched, str(processes), str(Path(accelerated.__file__)), str(folder), precision]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [torch.load(folder / f"process-{rank}.pt", weights_only=True) for rank in range(processes)]


def test_one_step_for_every_optimizer_step_on_any_number_of_processes(tmp_path: Path) -> None:
    found: dict[int, dict[str, Any]] = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        for whole, resumed in run(processes, folder, "no"):
            # 24 samples, 4 in a batch of all processes together, two batches a step: 3 steps an epoch.
            assert (whole["taken"], whole["at"], whole["horizon"]) == (6, 6, 6)
            assert (resumed["taken"], resumed["at"]) == (3, 6)
            assert whole["rates"] == resumed["rates"] == pytest.approx([0.0] * 3)
            assert all(torch.equal(whole["weights"][name], resumed["weights"][name]) for name in whole["weights"])
            found[processes] = whole["weights"]
    moved = dict(accelerated.model().named_parameters())
    for name, weight in found[1].items():
        assert torch.allclose(weight, found[2][name], atol=1e-5), name  # as many samples a step, so the same steps
        assert not torch.equal(weight, moved[name])


def test_bfloat16(tmp_path: Path) -> None:
    ((whole, resumed),) = run(1, tmp_path, "bf16")
    assert (whole["at"], resumed["at"]) == (6, 6)
    assert all(torch.equal(whole["weights"][name], resumed["weights"][name]) for name in whole["weights"])


def test_float16_and_a_step_that_the_scaler_leaves_out() -> None:
    import accelerate
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerate.Accelerator(cpu=True)  # with fp16 it wants a GPU: what it would make of a scaler is made here
    model = nn.Linear(3, 1)
    inner = stepwell.AdamW(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    optimizer = AcceleratedOptimizer(inner, scaler=scaler)
    inside = stepwell.Scheduler(inner, lr=stepwell.schedules.Linear(), horizon=4, counts="steps")
    scheduler = AcceleratedScheduler(inside, optimizer)
    for step, factor in enumerate((1.0, float("inf"), 1.0)):
        before = model.weight.detach().clone()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(torch.ones(2, 3)).square().mean() * factor
        scaler.scale(loss).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        # Accelerate's own `step_was_skipped` asks whether the scaler called step(); here, as with torch's fused
        # optimizers, it does, and the step leaves itself out.
        assert torch.equal(before, model.weight) is (step == 1)
    assert (inside.last_epoch, inner.skipped) == (2, 1)
    assert inner.param_groups[0]["lr"] == pytest.approx(0.05)  # two of four steps


def test_a_checkpoint_is_of_what_was_prepared(tmp_path: Path) -> None:
    import accelerate
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = accelerate.Accelerator(cpu=True)

    def made(horizon: int) -> tuple[nn.Module, Any, Any, stepwell.Scheduler]:
        torch.manual_seed(horizon)
        model = nn.Linear(300, 300)
        optimizer = stepwell.create_optimizer(model, "adamw", lr=1e-2)
        scheduler = stepwell.create_scheduler(optimizer, "cosine", horizon=horizon)
        return *accelerator.prepare(model, optimizer, scheduler), scheduler

    def go(model: nn.Module, optimizer: Any, scheduler: Any) -> None:
        for _ in range(3):
            accelerator.backward(model(torch.ones(2, 300)).square().mean())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    model, optimizer, scheduler, _ = made(20)
    go(model, optimizer, scheduler)
    stepwell.checkpoint.save(tmp_path, model=model, optimizer=optimizer, scheduler=scheduler)
    expected = {name: value.clone() for name, value in optimizer.state[model.weight].items() if name != "step"}
    go(model, optimizer, scheduler)
    stepwell.checkpoint.load(tmp_path, model=model, optimizer=optimizer, scheduler=scheduler)
    assert all(torch.equal(value, optimizer.state[model.weight][name]) for name, value in expected.items())
    assert stepwell.checkpoint.inspect(tmp_path).recipe is not None
    model, optimizer, scheduler, inner = made(40)
    stepwell.checkpoint.load(tmp_path, model=model, optimizer=optimizer, scheduler=scheduler, schedule="this")
    assert inner.last_epoch == 3
