"""What a type checker says of code that uses the package."""

from __future__ import annotations

import ast
import dataclasses
import inspect
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

RECIPES = """
from stepwell import Recipe, Route, rules, schedules, select

routes = (Route(rule=rules.Lion(lr=1e-4), select=select.role("embedding")), Route(rule="AdamW", select="ndim(2)"))
recipe = Recipe(routes=[*routes, Route(rule=rules.SGD)], schedules={"lr": "WSD(warmup=0.1)"}, undecayed="ndim(1)")
mixed = Recipe(routes=routes[1], schedules={"lr": schedules.Cosine(), "weight_decay": "Linear(end=0.5)"})
whole: schedules.Schedule = recipe.schedules["lr"].resolve(100)
first: Route = recipe.routes[0]
taken: select.Selector = first.select
Recipe(routes=routes, schedules={"lr": 0.1})  # type: ignore[dict-item]
Recipe(routes=routes, schedule={"lr": "WSD(warmup=0.1)"})  # type: ignore[call-arg]
Route(rule=rules.AdamW, selects="ndim(2)")  # type: ignore[call-arg]
"""


def complaints(code: str, folder: Path) -> list[str]:
    """What mypy --strict says of the code, whatever it thinks of packages that the code imports."""
    (folder / "training.py").write_text(code, encoding="utf-8")
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\nfollow_imports = silent\n", encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(Path(stepwell.__file__).parent.parent)}
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder.parent / "mypy"), "training.py"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("code", [OPTIMIZERS, RECIPES], ids=["optimizers", "recipes"])
def test_a_user_is_told_of_mistakes_alone(code: str, tmp_path: Path) -> None:
    assert complaints(code, tmp_path) == ["Success: no issues found in 1 source file"]


@pytest.mark.parametrize("kind", [stepwell.Recipe, stepwell.Route])
def test_a_type_checker_knows_every_field(kind: type) -> None:
    written = [node for node in ast.walk(ast.parse(inspect.getsource(kind))) if isinstance(node, ast.FunctionDef)]
    (takes,) = [[each.arg for each in node.args.kwonlyargs] for node in written if node.name == "__init__"]
    assert takes == [field.name for field in dataclasses.fields(kind)]
