"""What our own runs have found, where advice and presets tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.quality.running import FOLDER
from stepwell.advice import measured
from stepwell.advice.advising import OPTIMIZERS, advise
from stepwell.advice.measured import Measured, as_text, citations, rates_found
from stepwell.advice.tables import MEASURED_AS, MEASURED_CAUTION
from stepwell.recipes import PRESETS

TWO = [
    Measured(
        task=task, about=f"a {task}", steps=150, tries=8, run=f"{task}/adamw/try-0{number}.json", settings=settings
    )
    for number, (task, settings) in enumerate(
        {"vit": {"lr": 0.02, "weight_decay": 0.1}, "gpt": {"lr": 0.005, "weight_decay": 0.3}}.items()
    )
]


@pytest.fixture
def two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As if AdamW had been run on two tasks and nothing else."""
    (tmp_path / measured.FILE).write_text(as_text({"adamw": TWO}), encoding="utf-8")
    monkeypatch.setattr(measured, "files", lambda _: tmp_path)
    measured.measured.cache_clear()
    yield
    measured.measured.cache_clear()


@pytest.mark.usefixtures("two_tasks")
class TestTwoTasks:
    def test_it_comes_back_as_it_was_written(self) -> None:
        assert measured.measured("adamw") == tuple(TWO)
        assert measured.measured("lion") == ()

    def test_advice_gives_the_range_and_names_each_run(self) -> None:
        *_, rate = advise("adamw")["lr"]
        assert (rate.low, rate.high) == (0.005, 0.02)
        assert rate.lines == (
            "0.02 (best of 8 tries of 150 steps on a vit: run vit/adamw/try-00.json, docs/evidence.md)",
            "0.005 (best of 8 tries of 150 steps on a gpt: run gpt/adamw/try-01.json, docs/evidence.md)",
            MEASURED_CAUTION,
        )
        *_, decay = advise("adamw")["weight_decay"]
        assert (decay.low, decay.high) == (0.1, 0.3)

    def test_what_scales_a_rate_leaves_it_as_it_was_found(self) -> None:
        *_, rate = advise("adamw", deeper=True, batch_size=64, reference_batch_size=32)["lr"]
        assert (rate.low, rate.high) == (0.005, 0.02)

    def test_in_words(self) -> None:
        assert rates_found("adamw") == "0.005 to 0.02 (2 tasks)"
        assert rates_found("lion") == ""
        assert citations("adamw") == [
            "lr 0.02: best of 8 tries of 150 steps on a vit: run vit/adamw/try-00.json, docs/evidence.md",
            "lr 0.005: best of 8 tries of 150 steps on a gpt: run gpt/adamw/try-01.json, docs/evidence.md",
        ]
        assert citations("lion") == []

    def test_what_was_not_run_is_not_told_of(self) -> None:
        assert all(MEASURED_CAUTION not in one.lines for one in advise("lion")["lr"])


def test_plain_sgd_and_adam_are_not_told_of_others() -> None:
    for optimizer in ("sgd", "adam"):
        assert all(MEASURED_CAUTION not in one.lines for one in advise(optimizer).suggestions)


def test_every_optimizer_that_advice_is_for_is_a_preset_or_was_not_run() -> None:
    names = {MEASURED_AS.get(name, name) for name in OPTIMIZERS}
    assert {name for name in names if measured.measured(name)} <= set(PRESETS) | {"rmsprop", "adagrad"}


def test_each_run_that_is_named_is_there_and_has_these_settings() -> None:
    for recipe in ("adamw", "sgd", "lion", "muon"):
        for found in measured.measured(recipe):
            run = json.loads((FOLDER / found.run).read_text(encoding="utf-8"))
            assert run["settings"] == found.settings
            assert (run["recipe"], run["steps"]) == (recipe, found.steps)
