"""transformers' names without transformers: what they return, and what is right where transformers is not."""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

import stepwell
from stepwell import Scheduler
from stepwell.integrations import huggingface
from stepwell.integrations.huggingface import (
    AdafactorSchedule,
    SchedulerType,
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
    get_reduce_on_plateau_schedule,
    get_scheduler,
    get_wsd_schedule,
)


def sgd(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates or (1.0,)]
    return torch.optim.SGD(groups, lr=0.5)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


MAKERS: dict[str, Callable[[Any], Any]] = {
    "constant": get_constant_schedule,
    "constant_with_warmup": lambda o: get_constant_schedule_with_warmup(o, 2),
    "linear": lambda o: get_linear_schedule_with_warmup(o, 2, 8),
    "cosine": lambda o: get_cosine_schedule_with_warmup(o, 2, 8),
    "cosine_with_restarts": lambda o: get_cosine_with_hard_restarts_schedule_with_warmup(o, 2, 8, 2),
    "polynomial": lambda o: get_polynomial_decay_schedule_with_warmup(o, 2, 8, 0.1),
    "inverse_sqrt": lambda o: get_inverse_sqrt_schedule(o, 2),
    "cosine_with_min_lr": lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, 2, 8, min_lr=0.1),
    "cosine_warmup_with_min_lr": lambda o: get_cosine_with_min_lr_schedule_with_warmup_lr_rate(o, 2, 8, min_lr=0.1),
    "warmup_stable_decay": lambda o: get_wsd_schedule(o, 2, 3, 8),
}
KINDS = pytest.mark.parametrize("kind", MAKERS)


@KINDS
def test_it_passes_as_a_lambda_lr(kind: str) -> None:
    optimizer = sgd(1.0, 0.5)
    scheduler = MAKERS[kind](optimizer)
    assert isinstance(scheduler, LambdaLR)
    assert isinstance(scheduler, Scheduler)
    for step in range(12):
        assert [function(step) for function in scheduler.lr_lambdas] == pytest.approx(
            [rate / base for rate, base in zip(rates(optimizer), (1.0, 0.5), strict=True)], rel=1e-12
        )
        assert scheduler.get_last_lr() == rates(optimizer)
        assert scheduler.last_epoch == step
        scheduler.step()


@KINDS
def test_it_pickles_and_resumes(kind: str) -> None:
    scheduler = MAKERS[kind](sgd())
    for _ in range(3):
        scheduler.step()
    twin = pickle.loads(pickle.dumps(scheduler))
    resumed = MAKERS[kind](sgd())
    resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    for _ in range(8):
        for each in (scheduler, twin, resumed):
            each.step()
        assert rates(scheduler.optimizer) == rates(twin.optimizer) == rates(resumed.optimizer)


@KINDS
def test_a_state_that_torchs_lambda_lr_saved_goes_on(kind: str) -> None:
    scheduler = MAKERS[kind](sgd())
    state = LambdaLR(sgd(), lambda _: 1.0).state_dict() | {"last_epoch": 5}
    scheduler.load_state_dict(copy.deepcopy(state))
    assert rates(scheduler.optimizer) == [scheduler.lr_lambdas[0](5)]


@KINDS
def test_it_holds_past_the_end(kind: str) -> None:
    scheduler = MAKERS[kind](sgd())
    if kind == "inverse_sqrt":
        pytest.skip("it has no end: transformers does not tell it the horizon")
    (function,) = scheduler.lr_lambdas
    assert {function(8 + beyond) for beyond in (0, 1, 5, 10**6)} == {function(8)}


@KINDS
def test_by_its_name(kind: str) -> None:
    options = {
        "cosine_with_restarts": {"num_cycles": 2},
        "polynomial": {"lr_end": 0.1},
        "cosine_with_min_lr": {"min_lr": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 3},
    }
    warmup = None if kind == "constant" else 2
    found = get_scheduler(kind, sgd(), warmup, 8, options.get(kind))
    assert found.schedules == MAKERS[kind](sgd()).schedules
    assert get_scheduler(SchedulerType(kind), sgd(), warmup, 8, options.get(kind)).schedules == found.schedules


def test_schedules_by_a_metric_by_their_names() -> None:
    scheduler = get_scheduler("reduce_lr_on_plateau", sgd(), 0, 10, {"patience": 0})
    assert isinstance(scheduler, ReduceLROnPlateau)
    assert isinstance(get_reduce_on_plateau_schedule(sgd(), factor=0.5), ReduceLROnPlateau)
    greedy = get_scheduler("greedy", sgd(), scheduler_specific_kwargs={"smooth": True, "window_size": 3, "patience": 1})
    assert (greedy.window.maxlen, greedy.patience, greedy.min_lrs) == (3, 1, [1e-3])


def test_every_group_ends_at_the_rate_that_was_asked_for() -> None:
    # transformers divides by optimizer.defaults["lr"], 0.5 here: its groups end at 0.2, 0.1 and 0.02.
    for make in (get_polynomial_decay_schedule_with_warmup, get_cosine_with_min_lr_schedule_with_warmup):
        name = "lr_end" if make is get_polynomial_decay_schedule_with_warmup else "min_lr"
        scheduler = make(sgd(1.0, 0.5, 0.2), 2, 8, **{name: 0.1})  # type: ignore[operator]
        for _ in range(8):
            scheduler.step()
        assert rates(scheduler.optimizer) == pytest.approx([0.1, 0.1, 0.1])


def test_a_rate_below_the_default_end_falls_as_the_highest_does() -> None:
    # Where lr_end is not given, transformers multiplies every group by 1e-7 / 0.5 at the end.
    scheduler = get_polynomial_decay_schedule_with_warmup(sgd(0.5, 1e-8, 0.0), 0, 8)
    for _ in range(8):
        scheduler.step()
    assert rates(scheduler.optimizer) == pytest.approx([1e-7, 1e-8 * 1e-7 / 0.5, 0.0], rel=1e-9, abs=0)
    with pytest.raises(
        ValueError, match=r"^lr_end must be below the learning rate of every group, got 1e-07 for a rate"
    ):
        get_polynomial_decay_schedule_with_warmup(sgd(1e-8), 0, 8)


def test_whole_floats_are_steps() -> None:
    # What multiplying by a share, or by a number of epochs, gives.
    linear: Any = get_linear_schedule_with_warmup
    assert linear(sgd(), 3.0, 12.0).schedules == linear(sgd(), 3, 12).schedules
    wsd: Any = get_wsd_schedule
    assert wsd(sgd(), 0.0, 3.0, 12.0).schedules == wsd(sgd(), 0, 3, 12).schedules


def test_restarts_come_where_they_should() -> None:
    # 49 cycles of one step each: 49 · (1 / 49) is 0.9999999999999999, and transformers is at 0 there instead of at 1.
    scheduler = get_cosine_with_hard_restarts_schedule_with_warmup(sgd(), 0, 49, 49)
    assert [scheduler.lr_lambdas[0](step) for step in range(49)] == [1.0] * 49


def test_a_group_added_later_is_scheduled() -> None:
    optimizer = sgd()
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 4)
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 2.0})
    scheduler.step()
    assert rates(optimizer) == [0.75, 1.5]
    assert len(scheduler.lr_lambdas) == 2


def test_last_epoch_goes_on() -> None:
    optimizer = sgd(0.5)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert get_linear_schedule_with_warmup(optimizer, 0, 10, last_epoch=3).get_last_lr() == [0.6]


def test_wsd_by_hand() -> None:
    # From ¼ up over 2 steps, 2 stable, down by a cosine of a whole wave over 4: ½(1 + cos 2πp) = 1, ½, 0, ½, then ¼.
    scheduler = get_wsd_schedule(sgd(), 2, 4, num_stable_steps=2, min_lr_ratio=0.25, num_cycles=1.0)
    function = scheduler.lr_lambdas[0]
    expected = [0.25, 0.625, 1, 1, 1, 0.625, 0.25, 0.625, 0.25, 0.25]
    assert [function(step) for step in range(10)] == pytest.approx(expected)
    none = get_wsd_schedule(sgd(), 0, 0, num_stable_steps=2, min_lr_ratio=0.25).lr_lambdas[0]
    assert [none(step) for step in range(4)] == [1, 1, 0.25, 0.25]


class Relative(torch.optim.SGD):
    """An optimizer that finds its own rate, as Adafactor does."""

    def _get_lr(self, group: Any, state: Any) -> float:
        return 1 / math.sqrt(state["step"])


def test_adafactors_schedule_tells_its_rates() -> None:
    optimizer = Relative([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)], lr=0.1)
    scheduler = AdafactorSchedule(optimizer, initial_lr=0.3)
    assert "initial_lr" not in optimizer.param_groups[0]
    assert scheduler.get_lr() == [0.3, 0.3]
    (parameter,) = optimizer.param_groups[1]["params"]
    parameter.grad = torch.ones(1)
    optimizer.state[parameter]["step"] = 4
    assert scheduler.get_lr() == [0.3, 0.5]  # the first group has not moved; transformers would tell one rate for two
    assert pickle.loads(pickle.dumps(scheduler.lr_lambdas[0]))(7) == 0.3
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == scheduler.get_last_lr() == [0.3, 0.5, 0.3]
    parameter.grad = None  # transformers would tell the initial rate again
    assert scheduler.get_lr() == [0.3, 0.5, 0.3]
    with pytest.raises(TypeError, match=r"^AdafactorSchedule tells the rates that transformers' Adafactor finds; SGD "):
        AdafactorSchedule(sgd())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: get_scheduler("cosin", sgd(), 1, 8),
            ValueError,
            "unknown schedule 'cosin'; there are linear, cosine, ",
        ),
        (
            lambda: get_scheduler("constant", sgd(), scheduler_specific_kwargs={"num_cycle": 3}),
            TypeError,
            "unknown argument 'num_cycle' for the schedule 'constant'; it takes last_epoch",
        ),
        (
            lambda: get_scheduler("cosine", sgd(), 1, 8, {"num_cycle": 3}),
            TypeError,
            "unknown argument 'num_cycle' for the schedule 'cosine'; it takes num_cycles, last_epoch (did you",
        ),
        (
            lambda: get_scheduler("reduce_lr_on_plateau", sgd(), 1, 8, {"patiense": 3}),
            TypeError,
            "unknown argument 'patiense' for the schedule 'reduce_lr_on_plateau'; it takes mode, factor, patience, ",
        ),
        (lambda: get_scheduler("linear", sgd(), None, 8), ValueError, "the schedule 'linear' needs num_warmup_steps"),
        (
            lambda: get_scheduler("linear", sgd(), 1),
            ValueError,
            "the schedule 'linear' needs num_training_steps, got None",
        ),
        (
            lambda: get_scheduler("constant", sgd(), 3),
            ValueError,
            "the schedule 'constant' has no warm-up, got num_war",
        ),
        (
            lambda: get_scheduler("reduce_lr_on_plateau", sgd(), 3),
            ValueError,
            "the schedule 'reduce_lr_on_plateau' has no warm-up, got num_warmup_steps=3; leave it out",
        ),
        (
            lambda: get_scheduler("greedy", sgd(), 3),
            ValueError,
            "the schedule 'greedy' has no warm-up, got num_warmup_steps=3; 'warmup' among its arguments counts metrics",
        ),
        (
            lambda: get_linear_schedule_with_warmup(sgd(), 1.0, 8),  # type: ignore[arg-type]
            TypeError,
            "num_warmup_steps must be a whole number of steps (int), got 1.0; for a share of the training write round",
        ),
        (
            lambda: get_linear_schedule_with_warmup(sgd(), 0, 8.5),  # type: ignore[arg-type]
            TypeError,
            "num_training_steps must be a whole number of steps (int), got 8.5",
        ),
        (
            lambda: get_linear_schedule_with_warmup(sgd(), 0.1, 8),  # type: ignore[arg-type]
            TypeError,
            "num_warmup_steps must be a whole number of steps (int), got 0.1; for a share of the training write round",
        ),
        (
            lambda: get_linear_schedule_with_warmup(sgd(), 9, 8),
            ValueError,
            "num_warmup_steps must be at most num_training_steps, which is 8, got 9",
        ),
        (
            lambda: get_linear_schedule_with_warmup(sgd(), 0, 0),
            ValueError,
            "num_training_steps must be at least 1, got 0",
        ),
        (
            lambda: get_polynomial_decay_schedule_with_warmup(sgd(1.0, 0.05), 0, 8, lr_end=0.1),
            ValueError,
            "lr_end must be below the learning rate of every group, got 0.1 for a rate of 0.05",
        ),
        (
            lambda: get_cosine_with_min_lr_schedule_with_warmup(sgd(), 0, 8),
            ValueError,
            "give one of min_lr and min_lr_rate, got None and None",
        ),
        (lambda: get_wsd_schedule(sgd(), 2, 3), ValueError, "give num_training_steps or num_stable_steps"),
        (
            lambda: get_wsd_schedule(sgd(), 5, 5, 8),
            ValueError,
            "num_warmup_steps and num_decay_steps together must fit in",
        ),
        (lambda: get_wsd_schedule(sgd(), 1, 3, 8, decay_type="sqrt"), ValueError, "decay_type must be one of 'linear'"),
    ],
)
def test_errors(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make()


def test_every_name_is_documented() -> None:
    assert huggingface.__doc__
    # What stands on transformers is asked for its words where transformers is: tests/peers/test_trainer.py.
    for name in set(huggingface.__all__) - set(huggingface._WITH_TRANSFORMERS):
        assert inspect.getdoc(getattr(huggingface, name)), name


def test_transformers_is_not_imported() -> None:
    code = "import sys, stepwell.integrations.huggingface; print('transformers' in sys.modules)"
    source = str(next(iter(stepwell.__path__)) + "/..")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert done.stdout == "False\n"
