"""`python -m bench checkpoint`: a save and a load of weights and AdamW's state, beside `torch.save` with fsync.

Both write into one folder, which is on the disk that `TMPDIR` names, and wait until the disk has it; both end with the
old file or the new one under its name. Loads come from the system's file cache, for both.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import stepwell
from bench.contenders import OURS
from bench.material import Material
from bench.memory import resident_peak
from bench.records import CheckpointRow
from bench.shapes import GPT2, Shapes
from bench.turns import Step, Timing, take_turns, warmed_up
from stepwell import checkpoint

PEER = "torch.save, fsync"
_CPU = torch.device("cpu")
_STATE_BYTES = 8  # of AdamW for a float32 parameter


def measure(rounds: int, shapes: Shapes = GPT2) -> Iterator[CheckpointRow]:
    """A row for saving, and one for loading into a model and an optimizer without state."""
    with tempfile.TemporaryDirectory(prefix="stepwell-bench-") as name:
        folder = Path(name)
        model = _model(shapes)
        timings = _saves(folder, model, rounds)
        size = sum(path.stat().st_size for path in (folder / "ours").rglob("*") if path.is_file())
        yield CheckpointRow("save", shapes.title, shapes.parameters, size, timings, {})
        loads: dict[str, Step] = {
            OURS: lambda: _load(folder / "ours", model),
            PEER: lambda: _load_with_torch(folder / "theirs.pt", model),
        }
        timings = _in_turn(loads, rounds)
        state = _STATE_BYTES * shapes.parameters
        above = {name: _above(step, state) for name, step in loads.items()}
        yield CheckpointRow("load", shapes.title, shapes.parameters, size, timings, above)


def _saves(folder: Path, model: nn.Module, rounds: int) -> dict[str, Timing]:
    optimizer = _optimizer(model)
    optimizer.step()
    saves: dict[str, Step] = {
        OURS: lambda: checkpoint.save(folder / "ours", model=model, optimizer=optimizer, keep=1),
        PEER: lambda: _save_with_torch(folder / "theirs.pt", model, optimizer),
    }
    return _in_turn(saves, rounds)


def _in_turn(steps: dict[str, Step], rounds: int) -> dict[str, Timing]:
    return take_turns({name: warmed_up(step, _CPU) for name, step in steps.items()}, rounds, _CPU)


def _above(step: Step, state: int) -> int | None:
    """How far the process grows during a load above the state that is there afterwards."""
    peak = resident_peak(step)
    return None if peak is None else max(0, peak - state)


def _model(shapes: Shapes) -> nn.Module:
    """Modules that hold parameters with gradients, under names as long as those of a network."""
    material = Material(shapes, torch.float32, _CPU)
    model = nn.Module()
    for index, parameter in enumerate(material.parameters):
        model.add_module(f"layer_{index:03d}", nn.Module())
        model.get_submodule(f"layer_{index:03d}").register_parameter("weight", parameter)
    return model


def _optimizer(model: nn.Module) -> stepwell.Optimizer:
    return stepwell.Optimizer(model.named_parameters(), stepwell.rules.AdamW())


def _save_with_torch(path: Path, model: nn.Module, optimizer: stepwell.Optimizer) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _load(folder: Path, model: nn.Module) -> stepwell.Optimizer:
    optimizer = _optimizer(model)
    checkpoint.load(folder, model=model, optimizer=optimizer)
    return optimizer


def _load_with_torch(path: Path, model: nn.Module) -> torch.optim.Optimizer:
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["model"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(content["optimizer"])
    return optimizer
