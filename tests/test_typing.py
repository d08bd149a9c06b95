"""What a type checker says of code that uses the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell

# A line that mypy has to refuse says why it does; mypy complains where it finds nothing to refuse.
OPTIMIZERS = """
import torch
import stepwell
from stepwell import AdamW, Lion, rules

model = torch.nn.Linear(4, 2)
by_name = stepwell.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), clip_norm=1.0)
by_position = AdamW(model.named_parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.1)
in_groups = Lion([{"params": model.parameters(), "lr": 1e-4}], weight_decay=0.1, decay="independent", engine="foreach")


def rate(optimizer: stepwell.AdamW) -> float:
    optimizer.step()
    return float(optimizer.param_groups[0]["lr"])


class Gentle(stepwell.AdamW):
    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__(weights, lr=1e-5)


rate(by_name)
rate(Gentle(list(model.parameters())))
stepwell.optimizer_class("lion")(model.parameters(), lr=1e-4).telemetry()
every: list[stepwell.Optimizer] = [by_name, stepwell.Optimizer(model.parameters(), rules.AdamW(lr=1e-3))]
stepwell.AdamW(model.parameters(), beta=0.9)  # type: ignore[call-arg]
stepwell.AdamW(model.parameters(), engine="quick")  # type: ignore[arg-type]
stepwell.AdamW(model.parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.1, False, "coupled")  # type: ignore[call-arg]
rate(in_groups)  # type: ignore[arg-type]
"""


def complaints(code: str, folder: Path) -> list[str]:
    """What mypy --strict says of the code, whatever it thinks of packages that the code imports."""
    (folder / "training.py").write_text(code, encoding="utf-8")
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\nfollow_imports = silent\n", encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(Path(stepwell.__file__).parent.parent)}
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "cache"), "training.py"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_a_user_of_the_optimizers_is_told_of_mistakes_alone(tmp_path: Path) -> None:
    assert complaints(OPTIMIZERS, tmp_path) == ["Success: no issues found in 1 source file"]
