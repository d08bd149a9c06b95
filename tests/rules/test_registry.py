"""Rules that other packages offer as entry points: found by name, loaded when asked for, and no danger to the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from stepwell.catalogue import entries
from stepwell.rules import registry
from stepwell.rules.registry import rule_class

HALVING = '''
from dataclasses import dataclass

import stepwell


@dataclass(frozen=True, kw_only=True)
class Halving(stepwell.Rule):
    """Half a step (no paper)."""

    lr: float = 0.5

    def direction(self, p, g, s, h):
        return 0.5 * g, {}
'''
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_rules_are_forgotten: None) -> Iterator[Install]:
    """Makes a package as an installer leaves it: a module beside the folder that says what it is and what it offers."""
    installed = []
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._say_once.cache_clear()

    def make(package: str, source: str, **offered: str) -> None:
        installed.append(package)
        (tmp_path / f"{package}.py").write_text(source)
        about = tmp_path / f"{package}-1.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = [f"{name} = {package}:{value}" for name, value in offered.items()]
        (about / "entry_points.txt").write_text("\n".join(["[stepwell.rules]", *lines, ""]))

    yield make
    for package in installed:
        sys.modules.pop(package, None)


def test_it_is_found_by_name_and_trains(install: Install) -> None:
    install("halves", HALVING, halving="Halving")
    p = torch.ones(2, requires_grad=True)
    optimizer = stepwell.optimizer_class("halving")([p])
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [0.75, 0.75]  # 1 − 0.5·0.5
    assert optimizer.param_groups[0]["rule"] == "Halving"
    assert rule_class("cautious(Halving)").__name__ == "cautious(Halving)"


def test_it_is_listed_with_ours(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("halves", HALVING, Halving="Halving")
    assert "Halving" in stepwell.list_optimizers(memory=0)
    (entry,) = (entry for entry in entries() if entry.name == "Halving")
    assert (entry.about, entry.source) == ("Half a step", "no paper")
    assert not caplog.records


def test_nothing_is_loaded_before_it_is_asked_for(install: Install) -> None:
    install("halves", HALVING, halving="Halving")
    stepwell.optimizer_class("adamw")
    with pytest.raises(ValueError, match=r"^unknown rule 'halvin' \(did you mean 'halving'\?\)"):
        rule_class("halvin")
    assert "halves" not in sys.modules


def test_importing_stepwell_asks_for_no_entry_points() -> None:
    code = "import torch, importlib.metadata as m\n"
    code += "def asked(**group): raise AssertionError(group)\n"
    code += "m.entry_points = asked\n"
    code += "import stepwell; stepwell.optimizer_class('lion')"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_in_recipes_and_checkpoints(install: Install) -> None:
    install("halves", HALVING, halving="Halving")
    recipe = stepwell.Recipe.from_toml('[[routes]]\nrule = "halving"\nset = { lr = 0.25 }\n')
    assert recipe.routes[0].rule == "Halving"
    model = torch.nn.Linear(2, 1)
    optimizer = stepwell.create_optimizer(model, recipe)
    again = stepwell.create_optimizer(model, recipe)
    again.load_state_dict(optimizer.state_dict())
    assert {group["lr"] for group in again.param_groups} == {0.25}


def test_as_optim_of_the_trainer(install: Install) -> None:
    from stepwell.integrations.huggingface.choosing import choose

    install("halves", HALVING + "\nraise RuntimeError('no licence')\n", halving="Halving")
    with pytest.raises(ValueError, match=r"^the rule 'halving' of the package halves 1.2 cannot be loaded: RuntimeErr"):
        choose("halving", "stepwell", [])
    install("thirds", HALVING.replace("Halving", "Thirding"), thirding="Thirding")
    assert choose("thirding", "stepwell", []).origin == "rule"


@pytest.mark.parametrize(
    ("source", "value", "problem"),
    [
        ("import not_there_at_all\n", "Halving", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        (HALVING, "Halve", "AttributeError: module 'halves' has no attribute 'Halve'"),
        ("class Halving:\n    pass\n", "Halving", "halves:Halving is no subclass of stepwell.Rule"),
        (
            HALVING.replace("Halving", "Third"),
            "Third",
            "halves:Third is called Third, and so must be its entry point",
        ),
    ],
    ids=["import", "attribute", "class", "name"],
)
def test_a_broken_one_is_one_line_and_breaks_nothing_else(
    install: Install, caplog: pytest.LogCaptureFixture, source: str, value: str, problem: str
) -> None:
    before = stepwell.list_optimizers()
    install("halves", source, halving=value)
    with pytest.raises(ValueError, match=r"^the rule 'halving' of the package halves 1.2 cannot be loaded: ") as caught:
        stepwell.optimizer_class("halving")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not caplog.records
    for _ in range(2):
        assert stepwell.list_optimizers() == before
    assert [record.message for record in caplog.records] == [str(caught.value)]


def test_a_broken_one_in_a_recipe_is_a_mistake_of_it(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whose lines are the user's own
    install("halves", "1 / 0\n", halving="Halving")
    with pytest.raises(
        stepwell.RecipeError, match=r"cannot be loaded: ZeroDivisionError: division by zero \(halves.py:1\)$"
    ):
        stepwell.Route(rule="halving")


def test_a_name_of_ours_is_refused(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("halves", HALVING.replace("Halving", "AdamW"), adamw="AdamW")
    names = stepwell.list_optimizers()
    assert names.count("AdamW") == 1
    assert rule_class("AdamW") is stepwell.rules.AdamW
    assert [record.message for record in caplog.records] == [
        "the rule 'adamw' of the package halves 1.2 is refused: stepwell has a rule AdamW; give it another name"
    ]
    assert "halves" not in sys.modules


def test_a_name_of_another_package_is_refused(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("a_first", HALVING, halving="Halving")
    install("b_second", HALVING, Halving="Halving")
    assert stepwell.list_optimizers().count("Halving") == 1
    assert rule_class("halving").__module__ == "a_first"
    (record,) = caplog.records
    assert record.message.startswith(
        "the rule 'Halving' of the package b_second 1.2 is refused: a_first 1.2 has a rule"
    )


def test_what_its_module_defines_besides_takes_no_name_of_ours(install: Install) -> None:
    install("halves", HALVING + HALVING.replace("Halving", "Lion"), halving="Halving")
    assert rule_class("halving").__name__ == "Halving"
    assert rule_class("lion") is stepwell.rules.Lion


def test_on_the_command_line(install: Install, tmp_path: Path) -> None:
    install("halves", HALVING, halving="Halving")
    install("broken", "import not_there_at_all\n", broken="Broken")
    environment: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    code = "import sys; sys.path.insert(0, '.'); from stepwell.cli import main; main(['list', '--memory', '0'])"
    ran = subprocess.run([sys.executable, "-c", code], **environment)
    assert ran.returncode == 0, ran.stderr
    assert "Half a step" in ran.stdout
    (line,) = ran.stderr.splitlines()
    assert line.startswith("the rule 'broken' of the package broken 1.2 cannot be loaded: ModuleNotFoundError")
