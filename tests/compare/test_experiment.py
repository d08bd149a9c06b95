from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.compare.contestants import choose
from stepwell.compare.experiment import compare, evaluation_steps, gpus
from stepwell.compare.task import Task

SETTINGS = {
    "adamw": {"lr": 0.01, "weight_decay": 0.0, "betas": [0.9, 0.95]},
    "lion": {"lr": 0.001, "weight_decay": 0.0, "betas": [0.9, 0.95]},
}


def linear_task(**changes) -> Task:
    fields = {
        "name": "linear",
        "model": lambda: nn.Linear(4, 1, bias=False),
        "batch": lambda _step: torch.randn(8, 4),
        "loss": lambda model, x: model(x).square().mean(),
        "validate": lambda model: float(model.weight.square().sum()),
    }
    return Task(**(fields | changes))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [1]), (3, [1, 2, 3]), (50, list(range(2, 51, 2))), (1000, list(range(40, 1001, 40)))],
)
def test_evaluations_are_spread_evenly_up_to_the_last_step(steps, expected):
    assert evaluation_steps(steps) == expected


def test_every_recipe_starts_from_the_same_weights_and_sees_the_same_batches():
    seen = {}

    def loss(model, x):
        seen.setdefault(id(model), []).append((model.weight.detach().clone(), x.clone()))
        return model(x).square().mean()

    def model():
        made = nn.Linear(4, 1, bias=False)
        nn.init.constant_(made.weight, random.random())  # not from torch's seed: the weights are copied all the same
        models.append(made)
        return made

    models: list[nn.Module] = []
    compare(linear_task(loss=loss, model=model), choose(["adamw", "lion"]), SETTINGS, steps=3, seed=0)
    first, second = (seen[id(made)] for made in models[-2:])
    assert torch.equal(first[0][0], second[0][0])
    assert len(first) == len(second) == 3
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0][1], first[1][1])


def test_what_a_module_keeps_beside_tensors_is_copied_to_every_run():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 1, bias=False)
            self.seen = {"calls": 0}
            models.append(self)

        def forward(self, x):
            self.seen["calls"] += self.training
            return super().forward(x)

        def get_extra_state(self):
            return self.seen

        def set_extra_state(self, state):
            self.seen = state

    models: list[Counting] = []
    compare(linear_task(model=Counting), choose(["adamw", "lion"]), SETTINGS, steps=3, seed=0)
    assert [model.seen["calls"] for model in models[-2:]] == [3, 3]


def test_the_same_seed_gives_the_same_losses():
    one, again = (compare(linear_task(), choose(["adamw", "lion"]), SETTINGS, steps=4, seed=3) for _ in range(2))
    assert [run.train_loss for run in one.runs] == [run.train_loss for run in again.runs]
    assert [run.recipe for run in one.runs] == ["adamw", "lion"]
    assert not one.interrupted


def test_an_interrupt_keeps_what_was_measured():
    calls = []

    def batch(step):
        calls.append(step)
        if len(calls) == 4 + 30:  # four steps of preparation, then turns of two steps: AdamW's 16th
            raise KeyboardInterrupt
        return torch.randn(8, 4)

    found = compare(linear_task(batch=batch), choose(["adamw", "lion"]), SETTINGS, steps=50, seed=0)
    assert found.interrupted
    assert [(run.steps, run.status) for run in found.runs] == [(15, "interrupted"), (14, "interrupted")]
    assert [run.evaluations[-1].step for run in found.runs] == [14, 14]


def test_a_run_that_diverges_ends_alone():
    def loss(model, x):
        scale = float("inf") if model.weight.abs().max() > 1.5 else 1.0
        return scale * model(x).square().mean()

    settings = SETTINGS | {"lion": {"lr": 1.0, "weight_decay": 0.0, "betas": [0.9, 0.95]}}
    found = compare(linear_task(loss=loss), choose(["adamw", "lion"]), settings, steps=20, seed=0)
    assert [run.status for run in found.runs] == ["finished", "diverged"]


def test_each_step_and_evaluation_is_watched():
    seen = []
    compare(
        linear_task(),
        choose(["adamw", "lion"]),
        SETTINGS,
        steps=2,
        seed=0,
        watch=lambda run: seen.append((run.result.recipe, run.result.steps, len(run.result.evaluations))),
    )
    assert seen == [
        *(("adamw", 1, evaluations) for evaluations in (0, 1)),
        *(("lion", 1, evaluations) for evaluations in (0, 1)),
        *(("adamw", 2, evaluations) for evaluations in (1, 2)),
        *(("lion", 2, evaluations) for evaluations in (1, 2)),
    ]


def test_a_comparison_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    places: Any = [SimpleNamespace(device=torch.device(name)) for name in ("cuda:1", "cpu", "cuda:0", "cuda:1")]
    assert gpus(places) == {"GPU": "GPU 0, GPU 1"}
    assert gpus([torch.zeros(2)]) == {}
