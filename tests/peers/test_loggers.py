"""TensorBoard and Weights & Biases take what `scalars` gives."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import stepwell
from stepwell.integrations.scalars import scalars

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours

STEPS = 3


def training() -> list[dict[str, float]]:
    """The numbers of three observed steps of Muon and AdamW."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    optimizer = stepwell.create_optimizer(model, "muon", clip_norm=1.0)
    optimizer.observe()
    scheduler = stepwell.create_scheduler(optimizer, "cosine", horizon=STEPS)
    told = []
    for _ in range(STEPS):
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        told.append(scalars(optimizer))
        scheduler.step()
        optimizer.zero_grad()
    names = ("lr", "update_rms", "weight_rms", "gradient_rms", "update_to_weight")
    groups = ("hidden", "adamw", "adamw undecayed")
    assert set(told[0]) == {"gradient_norm", *(f"{name}/{group}" for name in names for group in groups)}
    return told


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    told = training()
    with SummaryWriter(tmp_path) as writer:
        for step, numbers in enumerate(told):
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(told[0])
    for name in told[0]:
        read = events.Scalars(name)
        assert [event.step for event in read] == list(range(STEPS))
        assert [event.value for event in read] == pytest.approx([numbers[name] for numbers in told])  # in float32


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    told = training()
    with wandb.init(mode="offline", dir=tmp_path, project="stepwell") as run:
        for numbers in told:
            run.log(numbers)
        kept = {name: run.summary[name] for name in told[-1]}
    assert kept == pytest.approx(told[-1])
    # A process of its own writes the file, and on a busy machine is not done when the run is.
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 60
    while b"update_to_weight/hidden" not in written.read_bytes():
        assert time.monotonic() < until, "nothing was written within a minute"
        time.sleep(0.1)
