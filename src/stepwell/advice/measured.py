"""What rates and decay our own runs have found best: written by `python -m bench evidence`, read by advice and presets.

The runs are of small models, for a few hundred steps; `docs/evidence.md` has the protocol and what came of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

FILE = "measured.json"
WHERE = "docs/evidence.md"
# Where the runs did not train as the preset of that name does.
OTHERWISE = {
    "sgd": "with Nesterov momentum",
    "muon": "of matrices and kernels, AdamW's apart",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The best of a recipe's tries on a task.

    Args:
        task: its name in `docs/evidence.md`.
        about: it, in a few words.
        steps: of a run.
        tries: how many were run, the same for every recipe.
        run: the file under `bench/results/quality` that holds the best one.
        settings: its hyper-parameters.
    """

    task: str
    about: str
    steps: int
    tries: int
    run: str
    settings: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Where the figure is from, in words."""
        return f"best of {self.tries} tries of {self.steps} steps on {self.about}: run {self.run}, {WHERE}"


@functools.cache
def measured(recipe: str) -> tuple[Measured, ...]:
    """What was found for the preset of this name, task by task; nothing where it was not run."""
    text = (files("stepwell.advice") / FILE).read_text(encoding="utf-8")
    return tuple(Measured(**found) for found in json.loads(text).get(recipe, ()))


def rates_found(recipe: str) -> str:
    """The best rates of a preset in words: the lowest and the highest of the tasks'. Empty where it was not run."""
    rates = [float(one.settings["lr"]) for one in measured(recipe)]
    if not rates:
        return ""
    low, high = f"{min(rates):.2g}", f"{max(rates):.2g}"
    tasks = f"{len(rates)} tasks" if len(rates) > 1 else measured(recipe)[0].task
    return f"{low if low == high else f'{low} to {high}'} ({tasks})"


def citations(recipe: str) -> list[str]:
    """A line for each task that the preset was run on: the best rate there, and its run."""
    otherwise = f", {OTHERWISE[recipe]}" if recipe in OTHERWISE else ""
    return [f"lr {float(one.settings['lr']):.4g}{otherwise}: {one.source}" for one in measured(recipe)]


def as_text(found: Mapping[str, list[Measured]]) -> str:
    """What `measured` reads, by recipe."""
    data = {recipe: [asdict(one) for one in of_tasks] for recipe, of_tasks in found.items()}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
