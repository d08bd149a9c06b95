"""The two schedules that listen to a metric, against torch's and by hand."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stepwell.scheduler.plateau import Greedy, ReduceOnPlateau


def sgd(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates or (1.0,)])


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


METRICS = st.lists(st.floats(0.01, 10), min_size=1, max_size=80)


@settings(deadline=None)
@given(METRICS, st.data())
def test_torchs_rates_for_metrics_above_zero(metrics: list[float], data: st.DataObject) -> None:
    options: dict[str, Any] = {
        "mode": data.draw(st.sampled_from(["min", "max"])),
        "factor": data.draw(st.floats(0.1, 0.9)),
        "patience": data.draw(st.integers(0, 4)),
        "threshold": data.draw(st.floats(0, 0.2)),
        "threshold_mode": data.draw(st.sampled_from(["rel", "abs"])),
        "cooldown": data.draw(st.integers(0, 3)),
        "min_lr": data.draw(st.sampled_from([0.0, 0.1, [0.2, 0.01]])),
    }
    ours, theirs = sgd(1.0, 0.3), sgd(1.0, 0.3)
    scheduler, peer = ReduceOnPlateau(ours, **options), ReduceLROnPlateau(theirs, **options)
    for metric in metrics:
        scheduler.step(metric)
        peer.step(metric)
        assert rates(ours) == pytest.approx(rates(theirs), rel=1e-12)
        assert scheduler.get_last_lr() == rates(ours)


def test_a_metric_below_zero_can_get_better() -> None:
    # torch's bound −1 · (1 − 0.5) = −0.5 would call −0.9 better than −1; ours is −1 − 0.5 · |−1| = −1.5.
    scheduler = ReduceOnPlateau(sgd(1.0), patience=0, threshold=0.5)
    for metric, expected in ((-1.0, 1.0), (-1.6, 1.0), (-1.7, 0.1), (-2.5, 0.1)):
        scheduler.step(metric)
        assert scheduler.get_last_lr() == [expected]


def test_it_is_a_torch_scheduler() -> None:
    assert isinstance(ReduceOnPlateau(sgd()), ReduceLROnPlateau)
    assert isinstance(Greedy(sgd()), LRScheduler)


def test_greedy_by_hand() -> None:
    # Patience 1: after two better metrics in a row up by 1 / 0.5, after two others down by 0.5; floor 0.5, ceiling 4.
    scheduler = Greedy(sgd(1.0), factor=0.5, patience=1, min_lr=0.5, max_lr=4.0)
    told = [
        (5, 1),
        (4, 2),
        (3, 2),
        (2, 4),
        (1, 4),
        (0.5, 4),
        (1, 4),
        (1, 2),
        (1, 2),
        (1, 1),
        (1, 1),
        (1, 0.5),
        (1, 0.5),
    ]
    for metric, expected in [*told, (1, 0.5)]:
        scheduler.step(metric)
        assert scheduler.get_last_lr() == [expected]


def test_greedy_starts_again_after_long_at_the_floor() -> None:
    scheduler = Greedy(sgd(1.0), factor=0.5, patience=0, min_lr=0.5, reset_after=2)
    for expected in (1.0, 0.5, 1.0):  # the first metric raises to its ceiling, 1; the third reduction starts again
        scheduler.step(3.0)
        assert scheduler.get_last_lr() == [expected]
    assert math.isinf(scheduler.best)


def test_greedy_cools_down_after_a_start_anew() -> None:
    # As GreedyLR of transformers does: the reduction that started anew has its cooldown too.
    scheduler = Greedy(sgd(1.0), factor=0.5, patience=0, min_lr=0.5, cooldown=2, reset_after=1)
    for best in (3.0, math.inf, math.inf, math.inf, 3.0):
        scheduler.step(3.0)
        assert scheduler.best == best


def test_greedy_waits_after_a_change_and_averages() -> None:
    scheduler = Greedy(sgd(1.0), factor=0.5, patience=0, warmup=2, max_lr=8.0, window=2)
    # Averages 8, 7, 5, 3, 2: better each time, but two calls pass after each rise.
    for metric, expected in ((8, 2), (6, 2), (4, 2), (2, 4), (2, 4)):
        scheduler.step(metric)
        assert scheduler.get_last_lr() == [expected]


@settings(deadline=None)
@given(METRICS, st.integers(0, 79), st.sampled_from([ReduceOnPlateau, Greedy]))
def test_a_resume_hears_on(metrics: list[float], cut: int, kind: Any) -> None:
    options = {"factor": 0.5, "patience": 1, "cooldown": 1} | ({"window": 3, "warmup": 1} if kind is Greedy else {})
    whole = kind(sgd(0.5), **options)
    for metric in metrics[:cut]:
        whole.step(metric)
    resumed = kind(sgd(0.5), **options)
    resumed.optimizer.load_state_dict(whole.optimizer.state_dict())
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for metric in metrics[cut:]:
        whole.step(metric)
        resumed.step(metric)
        assert rates(resumed.optimizer) == rates(whole.optimizer)


@pytest.mark.parametrize("kind", [ReduceOnPlateau, Greedy])
def test_a_rate_in_a_tensor_and_a_group_added_later(kind: Any) -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.5))
    live = optimizer.param_groups[0]["lr"]
    scheduler = kind(optimizer, factor=0.5, patience=0, min_lr=0.1)
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": torch.tensor(0.2)})
    before = rates(optimizer)
    scheduler.step(1.0)
    for _ in range(2):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] is live
    assert all(now < then for now, then in zip(rates(optimizer), before, strict=True))
    assert isinstance(scheduler.get_last_lr()[0], Tensor)


@pytest.mark.parametrize("kind", [ReduceOnPlateau, Greedy])
@pytest.mark.parametrize("metric", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_metric_that_is_not_finite_changes_nothing(kind: Any, metric: Any) -> None:
    scheduler = kind(sgd())
    scheduler.step(1.0)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=r"^the metric must be a finite number, got (nan|inf) at call 2$"):
        scheduler.step(metric)
    assert scheduler.state_dict() == before


@pytest.mark.parametrize("kind", [ReduceOnPlateau, Greedy])
@pytest.mark.parametrize("metric", ["0.5", None, [0.5], torch.ones(2)])
def test_what_is_no_metric_changes_nothing(kind: Any, metric: Any) -> None:
    scheduler = kind(sgd())
    before = scheduler.state_dict()
    with pytest.raises(TypeError, match=f"^{re.escape(f'the metric must be one number, got {metric!r}')}$"):
        scheduler.step(metric)
    assert scheduler.state_dict() == before


@pytest.mark.parametrize("kind", [ReduceOnPlateau, Greedy])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mim"}, "mode must be one of 'min', 'max', got 'mim' (did you mean 'min'?)"),
        ({"threshold_mode": "relative"}, "threshold_mode must be one of 'rel', 'abs', got 'relative'"),
        ({"factor": 1.0}, "factor must be below 1, got 1.0"),
        ({"factor": 0}, "factor must be a finite number above 0 and at most 1, got 0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"cooldown": -1}, "cooldown must be at least 0, got -1"),
        ({"threshold": float("nan")}, "threshold must be a finite number of at least 0, got nan"),
        ({"min_lr": [0.1, 0.1]}, "min_lr must be one number, or one for each of the 1 groups, got 2"),
    ],
)
def test_arguments_out_of_range(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        kind(sgd(), **options)


@pytest.mark.parametrize("kind", [ReduceOnPlateau, Greedy])
@pytest.mark.parametrize("scheduler_first", [False, True])
def test_the_last_rate_comes_back_as_in_torch(kind: Any, scheduler_first: bool) -> None:
    saved = kind(sgd(1.0), patience=0, factor=0.5)
    for metric in (1.0, 2.0, 3.0):
        saved.step(metric)
    resumed = kind(sgd(1.0))
    states = [(resumed.optimizer, saved.optimizer.state_dict()), (resumed, saved.state_dict())]
    for each, state in reversed(states) if scheduler_first else states:
        each.load_state_dict(state)
    assert resumed.get_last_lr() == rates(saved.optimizer) != [1.0]


def test_a_state_without_the_last_rate_loads_too() -> None:
    state = {"best": 1.0, "num_bad_epochs": 0, "cooldown_counter": 0, "last_epoch": 3}
    scheduler = ReduceOnPlateau(optimizer := sgd(1.0))
    optimizer.param_groups[0]["lr"] = 0.25  # as the optimizer's state brings it
    scheduler.load_state_dict(state)
    assert scheduler.get_last_lr() == [0.25]


def test_a_state_of_something_else_is_an_error() -> None:
    scheduler = Greedy(sgd())
    with pytest.raises(ValueError, match=r"^max_lr must be at least min_lr, which is 0.5, got 0.1$"):
        Greedy(sgd(), min_lr=0.5, max_lr=0.1)
    with pytest.raises(ValueError, match=r"^not the state of a Greedy: it has no 'num_good_epochs'"):
        scheduler.load_state_dict(ReduceOnPlateau(sgd()).state_dict())
    with pytest.raises(TypeError, match=r"^optimizer must be a torch.optim.Optimizer, got int$"):
        ReduceOnPlateau(3)  # type: ignore[arg-type]


def test_a_line_says_where_it_stands():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    listening = ReduceOnPlateau(optimizer, patience=3)
    assert repr(listening) == ("<ReduceOnPlateau after 0 calls: mode='min', factor=0.1, patience=3, best inf, lr 0.5>")
    listening.step(2.25)
    assert "after 1 call:" in repr(listening)
    assert "best 2.25" in repr(listening)
    assert repr(Greedy(optimizer, mode="max")) == (
        "<Greedy after 0 calls: mode='max', factor=0.95, patience=10, best -inf, lr 0.5>"
    )
