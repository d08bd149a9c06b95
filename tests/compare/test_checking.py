from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from test_fair import PROTOCOL, outcome
from torch import nn

from stepwell.compare.checking import check
from stepwell.compare.kept import KeptError
from stepwell.compare.task import TaskError


@pytest.fixture
def task_of(weight_task):
    return lambda _: weight_task()


def said(task_of, contestant, protocol=PROTOCOL, kept=()) -> list[str]:
    return list(check(task_of, contestant, protocol, kept))


@pytest.fixture
def at_rate(sgd):
    """SGD that needs no settings."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Fixed(type(sgd)):
        def build(self, model, settings, steps):
            return super().build(model, {"lr": 0.1, **settings}, steps)

    return Fixed(name="sgd", title="SGD", recipe=sgd.recipe, space=())


def test_a_sound_task_passes(task_of, at_rate):
    assert said(task_of, at_rate) == []


def test_a_loss_that_is_not_finite(weight_task, at_rate):
    def task_of(seed):
        return weight_task(loss=lambda model, _: model.w.sum() * float("nan"))

    with pytest.raises(TaskError, match="training loss is not finite before the first update"):
        said(task_of, at_rate)


def test_a_validation_loss_that_is_not_finite(weight_task, at_rate):
    def task_of(seed):
        return weight_task(validate=lambda _: float("nan"))

    with pytest.raises(TaskError, match=r"^task 'weight': the validation loss is not finite before the first update$"):
        said(task_of, at_rate)


def test_a_task_that_is_not_deterministic(weight_task, at_rate):
    def task_of(seed):
        def loss(model, _):
            return (model.w * random.random()).square().sum()

        return weight_task(loss=loss)

    with pytest.raises(TaskError, match="is not deterministic under a fixed seed: its training loss was"):
        said(task_of, at_rate)


def test_weights_that_are_not_from_the_seed(weight_task, at_rate):
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([random.random()]))

    with pytest.raises(TaskError, match="not deterministic"):
        said(lambda _: weight_task(model=Random), at_rate)


def test_batches_that_run_out(weight_task, at_rate):
    def task_of(seed):
        return weight_task(batch=[0.0, 1.0, 2.0].__getitem__)

    message = r"^task 'weight' has no batch for step 3, the last of a run: IndexError: list index out of range$"
    with pytest.raises(TaskError, match=message):
        said(task_of, at_rate)


def test_batches_that_run_out_in_the_longer_run(weight_task, at_rate):
    def task_of(seed):
        return weight_task(batch=[float(step) for step in range(6)].__getitem__)

    (warning,) = said(task_of, at_rate)
    assert warning.startswith("the run of 8 steps is left out: task 'weight' has no batch for step 7: IndexError: list")


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list, lambda values: {"x": (torch.tensor(values), 1.0)}])
def test_a_batch_later_in_the_run_that_is_another_when_drawn_again(kind, weight_task, at_rate):
    def task_of(seed):
        return weight_task(batch=lambda step: kind([random.random() if step == 3 else 0.5]))

    with pytest.raises(TaskError, match="its batch for step 3 was another when it was drawn again; what its function"):
        said(task_of, at_rate)


def test_batches_from_torch_and_those_that_cannot_be_compared_pass(weight_task, at_rate):
    for batch in (lambda _: torch.randn(4), lambda _: object(), lambda step: (str(step), torch.tensor([np.nan]))):
        assert said(lambda _, batch=batch: weight_task(batch=batch), at_rate) == []


def test_a_task_that_was_changed_since_its_runs_were_kept(task_of, at_rate):
    same = outcome(losses=((0, 1.000001), (4, 0.5)), seed=7, stage="try-00")
    changed = outcome(losses=((0, 1.0001), (4, 0.5)), seed=7, stage="try-01")
    elsewhere = outcome(losses=((0, 2.0), (4, 0.5)), seed=8)  # other weights
    none = outcome(losses=(), seed=7, diverged_at=0, stage="half")
    assert said(task_of, at_rate, kept=[same, elsewhere, none]) == []
    message = (
        "'weight' is another than that whose runs are kept: .* is 1, and was 1.0001 in 'sgd/try-01.json'; give another"
    )
    with pytest.raises(KeptError, match=message):
        said(task_of, at_rate, kept=[same, changed])
