"""Killed at any instant, during a save or not, a training goes on with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("killed_training.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def run(*arguments: object) -> Any:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    # It forks after a backward pass, which torch refuses where there is a GPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    return json.loads(ran.stdout)


def killed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    found = run("instants", folder, kills, seed)
    assert found["failed"] == 0
    assert found["same"]
    assert found["left"] <= 3  # the last two and the best: nothing of the killed ones is left
    assert found["during_save"] + found["outside"] == kills
    return found


def test_killed_at_some_instants(tmp_path: Path) -> None:
    killed(tmp_path, 8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_at_fifty_instants(seed: int, tmp_path: Path) -> None:
    found = killed(tmp_path, 50, seed)
    assert found["during_save"] >= 5
    assert found["outside"] >= 1


def test_ended_before_each_operation_on_files(tmp_path: Path) -> None:
    found = run("operations", tmp_path)
    # Before the rename all is as it was, after it all is new; there are operations on both sides of it.
    assert found["operations"] >= 15
    assert found["old"] >= 8
    assert found["new"] >= 4
    assert found["old"] + found["new"] == found["operations"] + 1
