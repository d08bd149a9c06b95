"""The examples run as written, and learn."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peers.importing_timm import timm_imported

EXAMPLES = Path(__file__).parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "examples.md"
LONGEST = 60


def run(name: str) -> float:
    """What an example says of what it has learned: a share from 0 to 1."""
    share: float = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    return share


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_fsdp2_by_torchrun(ranks: int) -> None:
    """By chance the loss is ln 19 = 2.9."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launch, str(EXAMPLES / "fsdp2.py")]
    # With a GPU for each rank it runs there, with fewer on the CPU.
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if ranks > torch.cuda.device_count() else {}
    environment = {**os.environ, **hidden}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("loss ")]
    assert float(line.removeprefix("loss ")) < 1.5


def test_the_page_lists_every_example() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


# Ten kinds of digits: guessing reads a tenth of them.


@pytest.mark.parametrize(
    "name", ["plain_torch", "amp_grad_scaler", "accumulation", "schedule_free", "custom_rule", "fine_tuning"]
)
def test_digits_are_read(name: str) -> None:
    assert run(name) > 0.85


@pytest.mark.peers
def test_lora() -> None:
    pytest.importorskip("peft")
    assert run("lora") > 0.85


@pytest.mark.peers
def test_timm_vit() -> None:
    with timm_imported():
        assert run("timm_vit") > 0.85


@pytest.mark.peers
def test_flax_nnx() -> None:
    assert run("flax_nnx") > 0.9


@pytest.mark.peers
@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_fit() -> None:
    assert run("keras_fit") > 0.9
