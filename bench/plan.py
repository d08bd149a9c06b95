"""`python -m bench plan`: how long a plan of a model of 70 billion parameters takes, and how much memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.processes import fresh
from bench.records import PlanRow

MODEL = "Llama 2 70B"
RECIPES = ("llama", "muon", "soap")


def measure(repeats: int) -> Iterator[PlanRow]:
    """A row for each recipe: medians over fresh processes, and the largest that any of them became."""
    for recipe in RECIPES:
        runs = [fresh("bench.large_model", recipe) for _ in range(repeats)]
        seconds = {part: statistics.median(run[part] for run in runs) for part in ("build", "plan", "memory", "cost")}
        sizes = [run["resident"] for run in runs if run["resident"] is not None]
        yield PlanRow(
            recipe=recipe,
            model=MODEL,
            tensors=runs[0]["tensors"],
            parameters=runs[0]["parameters"],
            resident=max(sizes, default=None),
            **seconds,
        )
