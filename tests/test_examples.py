"""The examples run as written, and learn."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST = 60


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST


@pytest.mark.slow
def test_fsdp2_on_two_ranks() -> None:
    """By chance the loss is ln 19 = 2.9."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLES / "fsdp2.py")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("loss ")]
    assert float(line.removeprefix("loss ")) < 1.5


@pytest.mark.peers
def test_flax_nnx() -> None:
    assert runpy.run_path(str(EXAMPLES / "flax_nnx.py"))["main"]() > 0.9


@pytest.mark.peers
@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_fit() -> None:
    assert runpy.run_path(str(EXAMPLES / "keras_fit.py"))["main"]() > 0.9
