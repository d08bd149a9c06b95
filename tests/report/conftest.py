from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from stepwell.compare.results import Comparison, Evaluation, Group, RunResult

RECIPES = (
    # name, title, the loss that is approached, milliseconds a step, the optimizer's share, learning rate
    ("adamw", "AdamW + cosine", 1.80, 100, 0.02, 4e-3),
    ("lion", "Lion + cosine", 1.90, 100, 0.01, 6e-4),
    ("muon", "Muon + AdamW", 1.60, 140, 0.30, 6e-3),
    ("schedule-free", "Schedule-Free AdamW", 1.75, 100, 0.02, 8e-3),
)
STEPS = 100


def one_run(name: str, title: str, end: float, milliseconds: float, share: float, lr: float, steps: int) -> RunResult:
    groups = [
        Group(name="hidden", rule="R", tensors=4, weights=1000, lr=lr, weight_decay=0.1, role="hidden matrix", why="a"),
        Group(name="rest", rule="R", tensors=2, weights=24, lr=lr / 2, weight_decay=0.0, role="norm", why="b"),
    ]
    second = milliseconds / 1e3
    return RunResult(
        recipe=name,
        title=title,
        settings={"lr": lr, "betas": [0.9, 0.95]},
        planned_steps=STEPS,
        groups=groups,
        train_loss=[2.0] * steps,
        lr={"hidden": [lr] * steps, "rest": [lr / 2] * steps},
        step_seconds=[second] * steps,
        optimizer_seconds=[share * second] * steps,
        evaluations=[
            Evaluation(step=step, seconds=step * second, loss=end + 3 * math.exp(-step / 20))
            for step in range(4, steps + 1, 4)
        ],
        state_bytes=8192,
    )


@pytest.fixture
def make_comparison() -> Callable[..., Comparison]:
    def make(count: int = 4, *, steps: int = STEPS, **changes: Any) -> Comparison:
        tries = [{"settings": {"lr": 10.0**-power}, "loss": 2.0 + 0.1 * abs(power - 3)} for power in (2, 2.5, 3, 3.5)]
        sweep = {
            "task": "bytegpt",
            "steps": 200,
            "seed": 1,
            "tries_each": 5,
            "date": "2025-01-02",
            "versions": {"torch": "2.13.0"},
            "tries": {recipe[0]: [*tries, {"settings": {"lr": 0.1}, "loss": None}] for recipe in RECIPES},
        }
        fields: dict[str, Any] = {
            "task": "bytegpt",
            "about": "A small model & a <large> text.",
            "seed": 7,
            "steps": STEPS,
            "clip_norm": 1.0,
            "versions": {"stepwell": "0.1.0", "torch": "2.13.0"},
            "threads": 2,
            "runs": [one_run(*recipe, steps) for recipe in RECIPES[:count]],
            "sweep": sweep,
        }
        return Comparison(**(fields | changes))

    return make
