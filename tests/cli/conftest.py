from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.cli import main


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal, also where the tests run in the background of a script and would not hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


TASK = """
import signal
import torch
from torch import nn
from torch.nn.functional import mse_loss
from stepwell.compare import Task


def fit(seed, interrupt_at=None, diverge=False):
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    batches = []

    def batch(step):
        batches.append(step)
        if len(batches) == interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return torch.randint(32, (8,))

    def loss(model, rows):
        return mse_loss(model(x[rows]), x[rows] ** 2) * (float("inf") if diverge else 1.0)

    return Task(
        model=lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)),
        batch=batch,
        loss=loss,
        validate=lambda model: mse_loss(model(x), x ** 2).item(),
        steps=6,
        about="A tiny network learns a parabola.",
    )


def interrupted(seed):
    return fit(seed, interrupt_at=12)


def interrupted_at_once(seed):
    return fit(seed, interrupt_at=1)


def diverging(seed):
    return fit(seed, diverge=True)


def failing(seed):
    raise FileNotFoundError(2, "No such file or directory", "/data/train.bin")
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current directory but for `tiny.py`, whose functions are tasks; modules in it are forgotten after."""
    (tmp_path / "tiny.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def stepwell(capsys) -> Callable[..., Any]:
    """Runs the program; gives its exit code, what it printed and what it said on stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run
