from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from stepwell.compare.contestants import CONTESTANTS, ContestantError
from stepwell.compare.task import DataEndedError, Task, TaskError
from stepwell.compare.training import Run, make_model

ADAMW = {"lr": 0.01, "weight_decay": 0.1, "betas": [0.9, 0.95]}


def dropout_task() -> Task:
    return Task(
        name="dropout",
        model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)),
        batch=lambda _step: torch.randn(16, 4),
        loss=lambda model, x: mse_loss(model(x), x.sum(1, keepdim=True)),
        validate=lambda model: mse_loss(model(torch.ones(1, 4)), torch.full((1, 1), 4.0)).item(),
    )


def test_losses_and_evaluations_worked_out_by_hand(weight_task, sgd):
    # w ← w − 0.1·w: 1, 0.9, 0.81, 0.729; the loss is w²/2 before each step.
    run = Run(weight_task(), sgd, {"lr": 0.1}, steps=3, seed=0)
    run.advance(2)
    run.evaluate()
    run.advance(3)
    run.evaluate()
    assert run.result.train_loss == pytest.approx([0.5, 0.405, 0.32805])
    assert [one.step for one in run.result.evaluations] == [2, 3]
    assert [one.loss for one in run.result.evaluations] == pytest.approx([0.81, 0.729])
    assert run.result.last_loss == pytest.approx(0.729)
    assert run.result.status == "finished"
    assert run.ended


def test_the_clock_counts_steps_and_the_optimizer_within_them(weight_task, sgd):
    run = Run(weight_task(), sgd, {"lr": 0.1}, steps=4, seed=0)
    run.advance(4)
    run.evaluate()
    assert len(run.result.step_seconds) == len(run.result.optimizer_seconds) == 4
    pairs = zip(run.result.optimizer_seconds, run.result.step_seconds, strict=True)
    assert all(0 < own < whole for own, whole in pairs)
    assert run.result.evaluations[0].seconds == pytest.approx(sum(run.result.step_seconds))


def test_each_step_is_watched(weight_task, sgd):
    seen = []
    Run(weight_task(), sgd, {"lr": 0.1}, steps=3, seed=0).advance(3, lambda run: seen.append(run.result.steps))
    assert seen == [1, 2, 3]


def test_a_loss_that_is_not_finite_ends_the_run(weight_task, sgd):
    def loss(model, step):
        return (model.w * (math.inf if step == 2 else 1.0)).sum()

    run = Run(weight_task(loss=loss), sgd, {"lr": 0.1}, steps=9, seed=0)
    run.advance(9)
    run.evaluate()
    assert (run.result.status, run.result.diverged_at, run.result.steps) == ("diverged", 2, 2)
    assert run.result.evaluations == []
    assert run.result.last_loss is None


def test_a_validation_loss_that_is_not_finite_ends_the_run(weight_task, sgd):
    run = Run(weight_task(validate=lambda _model: math.nan), sgd, {"lr": 0.1}, steps=9, seed=0)
    run.advance(3)
    run.evaluate()
    assert (run.result.status, run.result.diverged_at) == ("diverged", 3)


def test_turns_change_nothing():
    straight = Run(dropout_task(), CONTESTANTS["adamw"], ADAMW, steps=6, seed=5)
    straight.advance(6)
    first, second = (Run(dropout_task(), CONTESTANTS["adamw"], ADAMW, steps=6, seed=5) for _ in range(2))
    for until in (2, 4, 6):
        for run in (first, second):
            run.advance(until)
            run.evaluate()
    assert first.result.train_loss == second.result.train_loss == straight.result.train_loss


def test_the_seed_draws_weights_and_batches():
    one, other = (Run(dropout_task(), CONTESTANTS["adamw"], ADAMW, steps=2, seed=seed) for seed in (1, 2))
    assert not torch.equal(one.model[0].weight, other.model[0].weight)
    drawn = []

    def batch(step):
        drawn.append(torch.randn(4))
        return torch.randn(16, 4)

    for seed in (1, 2):
        task = Task(**(vars(dropout_task()) | {"batch": batch}))
        Run(task, CONTESTANTS["adamw"], ADAMW, steps=2, seed=seed).advance(2)
    # Seeds and steps each draw their own numbers: four different draws.
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 4


def test_an_average_of_the_weights_is_what_is_evaluated():
    settings = {"lr": 0.05, "weight_decay": 0.0, "betas": [0.9, 0.95]}
    run = Run(dropout_task(), CONTESTANTS["schedule-free"], settings, steps=8, seed=0)
    run.advance(8)
    before = [parameter.clone() for parameter in run.model.parameters()]
    run.evaluate()
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    run.model.eval()
    training_weights = run.task.validate(run.model)
    with run.optimizer.averaged():
        averaged_weights = run.task.validate(run.model)
    assert run.result.last_loss == averaged_weights != training_weights


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (None, "NoneType"),
        ("0.5", "str"),
        ([0.5], "list"),
        (torch.ones(3), "a tensor of shape (3,)"),
        (np.ones((2, 1)), "an array of shape (2, 1)"),
    ],
)
def test_a_validation_that_gives_no_number(value, got, weight_task, sgd):
    run = Run(weight_task(validate=lambda _: value), sgd, {"lr": 0.1}, steps=2, seed=0)
    with pytest.raises(TaskError, match=re.escape(f"'weight': Task.validate must return a number, got {got}") + "$"):
        run.evaluate()


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor([2.0]), np.float32(2), np.full((1, 1), 2)])
def test_a_validation_may_give_any_kind_of_number(value, weight_task, sgd):
    run = Run(weight_task(validate=lambda _: value), sgd, {"lr": 0.1}, steps=2, seed=0)
    run.evaluate()
    assert run.result.last_loss == 2.0


def test_data_that_end_are_told_with_the_step(weight_task, sgd):
    batches = iter([0.0, 1.0])
    run = Run(weight_task(batch=lambda _: next(batches)), sgd, {"lr": 0.1}, steps=4, seed=0)
    with pytest.raises(DataEndedError, match=r"^task 'weight': its data ended at step 2$"):
        run.advance(4)


def test_evaluation_leaves_the_model_in_training_mode():
    modes = []
    task = dropout_task()

    def validate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return 1.0

    run = Run(Task(**(vars(task) | {"validate": validate})), CONTESTANTS["adamw"], ADAMW, steps=1, seed=0)
    run.evaluate()
    assert modes == [(False, False)]
    assert run.model.training


def test_the_groups_and_their_rates():
    run = Run(dropout_task(), CONTESTANTS["adamw"], ADAMW, steps=10, seed=0)
    run.advance(3)
    decayed, undecayed = run.result.groups
    assert (decayed.rule, decayed.lr) == (undecayed.rule, undecayed.lr) == ("AdamW", 0.01)
    assert (decayed.tensors, decayed.weights, decayed.weight_decay) == (2, 40, 0.1)
    assert (undecayed.tensors, undecayed.weights, undecayed.weight_decay) == (2, 9, 0.0)
    assert run.result.lr.keys() == {decayed.name, undecayed.name}
    # One step of warm-up in ten, at the peak at the first step after it.
    assert max(run.result.lr[decayed.name]) == pytest.approx(0.01)


def test_bytes_of_state():
    # AdamW keeps two float32 numbers for each of the 49 weights, Lion one.
    lion = {"lr": 0.001, "weight_decay": 0.1, "betas": [0.9, 0.99]}
    for recipe, settings, each in (("adamw", ADAMW, 8), ("lion", lion, 4)):
        run = Run(dropout_task(), CONTESTANTS[recipe], settings, steps=2, seed=0)
        run.advance(1)
        assert run.result.state_bytes == 49 * each


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss": lambda _model, _batch: 3.0},
            "task 'weight': loss must be a scalar that needs a gradient, got float",
        ),
        (
            {"loss": lambda model, _batch: model.w.expand(2)},
            "task 'weight': loss must be a scalar that needs a gradient, got a tensor of shape (2,)",
        ),
        (
            {"loss": lambda _model, _batch: torch.tensor(1.0)},
            "task 'weight': loss must be a scalar that needs a gradient, got a tensor that needs none",
        ),
    ],
)
def test_a_loss_of_the_wrong_kind(weight_task, sgd, change, message):
    with pytest.raises(TaskError) as caught:
        Run(weight_task(**change), sgd, {"lr": 0.1}, steps=1, seed=0).advance(1)
    assert str(caught.value) == message


def test_an_error_in_the_task_names_its_line(weight_task, sgd):
    def batch(step):
        raise IndexError("no batch left")

    message = r"^task 'weight' has no batch for step 0: IndexError: no batch left \(test_training_run.py:\d+\)$"
    with pytest.raises(TaskError, match=message):
        Run(weight_task(batch=batch), sgd, {"lr": 0.1}, steps=1, seed=0).advance(1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: 3, "task 'weight': model must return a torch.nn.Module, got int"),
        (nn.Identity, "task 'weight': model has no parameter to train"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)),
            "task 'weight': '1.weight' has no shape yet: run one forward pass through its lazy module first",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False)),
            "task 'weight': '1.running_mean' has no shape yet: run one forward pass through its lazy module first",
        ),
    ],
)
def test_a_model_of_the_wrong_kind(weight_task, model, message):
    with pytest.raises(TaskError) as caught:
        make_model(weight_task(model=model), 0)
    assert str(caught.value) == message


def test_settings_that_the_optimizer_refuses():
    with pytest.raises(ContestantError, match=r"^recipe 'adamw' cannot train this model: .*lr must be"):
        Run(dropout_task(), CONTESTANTS["adamw"], ADAMW | {"lr": -1.0}, steps=1, seed=0)
