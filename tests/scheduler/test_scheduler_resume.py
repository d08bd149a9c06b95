"""A scheduler goes on where it was saved, bit for bit, or says why not."""

from __future__ import annotations

import copy
import json
import logging
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from stepwell.scheduler import Scheduler
from stepwell.schedules import Constant, Cosine, Linear, Schedule, sequence


def sgd(*rates: float, **options: Any) -> torch.optim.SGD:
    """An optimizer with one group for each rate."""
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "lr": rate} for rate in rates or (1.0,)]
    return torch.optim.SGD(groups, **options)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


SCHEDULES: list[Schedule] = [
    Constant(warmup=0.3),
    Linear(warmup=5, end=0.2),
    Cosine(end=0.1),
    sequence(Constant(warmup=3), Cosine(), at=[0.5]),
]


@settings(deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(0, 50), st.integers(10, 40), st.booleans())
def test_a_resumed_run_has_the_same_bits(schedule: Schedule, cut: int, horizon: int, state_first: bool) -> None:
    def start() -> tuple[torch.optim.Optimizer, Scheduler]:
        optimizer = sgd(0.3, 0.007, momentum=0.9, weight_decay=0.1)
        return optimizer, Scheduler(optimizer, lr=schedule, weight_decay=Cosine(), horizon=horizon)

    whole, first = start()
    for _ in range(cut):
        first.step()
    saved_optimizer, saved = copy.deepcopy(whole.state_dict()), json.loads(json.dumps(first.state_dict()))
    resumed, second = start()
    if state_first:
        resumed.load_state_dict(saved_optimizer)
        second.load_state_dict(saved)
    else:
        second.load_state_dict(saved)
        resumed.load_state_dict(saved_optimizer)
    for _ in range(horizon + 5 - min(cut, horizon)):
        assert rates(resumed) == rates(whole)
        assert first.last_epoch == second.last_epoch
        for ours, theirs in zip(whole.param_groups, resumed.param_groups, strict=True):
            assert ours["weight_decay"] == theirs["weight_decay"]
        first.step()
        second.step()


def test_the_state_is_the_step_and_what_it_was_taken_under() -> None:
    scheduler = Scheduler(sgd(weight_decay=0.1), lr=Cosine(warmup=0.1), weight_decay=Linear(), horizon=100)
    scheduler.step()
    assert scheduler.state_dict() == {
        "step": 1,
        "schedules": {"lr": "Cosine(horizon=100, warmup=10)", "weight_decay": "Linear(horizon=100)"},
        "given": {"lr": "Cosine(warmup=0.1)", "weight_decay": "Linear()"},
        "horizon": 100,
    }


def test_loading_sets_the_values_at_once_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd(0.4, weight_decay=0.1)
    scheduler = Scheduler(optimizer, lr=Linear(), weight_decay=Linear(end=1.0), horizon=2000)
    state = {**scheduler.state_dict(), "step": 1200}
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict(state)
    assert rates(optimizer) == [0.4 * 0.4]
    assert caplog.messages == [
        "resumed at step 1200: next lr = 0.16, was 0.4; next weight_decay = 0.1, was 0.1",
    ]


def test_a_jump_is_shown_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd(0.4)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=10)
    state = {**scheduler.state_dict(), "step": 5}
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict(state)
        scheduler.load_state_dict(state)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "resumed at step 5: next lr = 0.2, was 0.4"),
        ("INFO", "resumed at step 5: next lr = 0.2, was 0.2"),
    ]


def test_a_new_learning_rate_that_the_loaded_groups_overlook_is_named(caplog: pytest.LogCaptureFixture) -> None:
    saved = sgd(0.4)
    first = Scheduler(saved, lr=Linear(), horizon=10)
    first.step()
    optimizer = sgd(0.8)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=10)
    optimizer.load_state_dict(saved.state_dict())
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict(first.state_dict())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        "resumed at step 1: next lr = 0.36, was 0.36; the loaded base of lr is 0.4: override(lr=0.8) takes the new one"
    )
    scheduler.override(lr=0.8)
    assert rates(optimizer) == pytest.approx([0.72])
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict(first.state_dict())
    assert caplog.messages == ["resumed at step 1: next lr = 0.72, was 0.72"]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            (0.4, 0.8),
            "next lr = 0.32, was 0.32 (first of 2 groups); the loaded base of lr of group 1 is 0.6: setting its "
            "'initial_lr' to 0.8 takes the new one",
        ),
        (
            (0.5, 0.6),
            "next lr = 0.32, was 0.32 (first of 2 groups); the loaded base of lr is 0.4: override(lr=0.5) takes the "
            "new one",
        ),
    ],
)
def test_a_new_rate_of_any_group_is_named(
    new: tuple[float, ...], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = sgd(0.4, 0.6)
    first = Scheduler(saved, lr=Linear(), horizon=10)
    first.step(2)
    optimizer = sgd(*new)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=10)
    optimizer.load_state_dict(saved.state_dict())
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict(first.state_dict())
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"resumed at step 2: {message}")
    ]


def test_a_jump_in_any_scheduled_group_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd(0.4, 0.8, weight_decay=0.1)
    scheduler = Scheduler(optimizer, lr={0: Constant(), 1: Linear()}, weight_decay={1: Constant()}, horizon=4)
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict({**scheduler.state_dict(), "step": 1})
        optimizer.param_groups[0]["weight_decay"] = 7.0  # not scheduled, nobody's business
        scheduler.load_state_dict({**scheduler.state_dict(), "step": 1})
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "resumed at step 1: next lr of group 1 = 0.6, was 0.8; next weight_decay of group 1 = 0.1, was 0.1",
        ),
        (
            "INFO",
            "resumed at step 1: next lr of group 0 = 0.4, was 0.4; next weight_decay of group 1 = 0.1, was 0.1",
        ),
    ]


def test_with_several_groups_the_message_tells_of_the_first(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler(sgd(0.4, 0.8), lr=Linear(horizon=4))
    with caplog.at_level(logging.INFO, logger="stepwell"):
        scheduler.load_state_dict({**scheduler.state_dict(), "step": 1})
    assert caplog.messages == ["resumed at step 1: next lr = 0.3, was 0.4 (first of 2 groups)"]


def test_a_state_of_another_schedule_is_refused_unless_this_one_is_wanted() -> None:
    saved = Scheduler(sgd(), lr=Linear(horizon=10)).state_dict()
    optimizer = sgd(1.0, weight_decay=0.5)
    scheduler = Scheduler(optimizer, lr=Linear(horizon=20))
    saved["step"] = 5
    message = (
        "the saved schedule of lr is Linear(horizon=10), this scheduler's is Linear(horizon=20); "
        "load_state_dict(state, schedule='this') goes on with this scheduler's, schedule='saved' with the saved"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scheduler.load_state_dict(saved)
    assert scheduler.last_epoch == 0
    assert rates(optimizer) == [1.0]
    scheduler.load_state_dict(saved, schedule="this")
    assert scheduler.last_epoch == 5
    assert rates(optimizer) == [0.75]

    both = Scheduler(optimizer, lr=Linear(horizon=10), weight_decay=Linear(horizon=10))
    with pytest.raises(ValueError, match=r"^the saved schedule of weight_decay is none, this scheduler's is Linear"):
        both.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"^the saved schedule of weight_decay is Linear\(horizon=10\), .* is none;"):
        Scheduler(optimizer, lr=Linear(horizon=10)).load_state_dict(both.state_dict())


def test_a_longer_horizon_does_not_change_a_schedule_that_does_not_use_it() -> None:
    saved = Scheduler(sgd(), lr=Constant(warmup=3), horizon=10).state_dict()
    Scheduler(sgd(), lr=Constant(warmup=3), horizon=20).load_state_dict(saved)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (
            {"last_epoch": 3, "base_lrs": [1.0]},
            ValueError,
            "not the state of a stepwell Scheduler: it has no 'step', but ['last_epoch', 'base_lrs']",
        ),
        (None, ValueError, "not the state of a stepwell Scheduler: None"),
        ({"step": 1, "schedules": 5}, ValueError, "not the state of a stepwell Scheduler: its schedules are 5"),
        (
            {"step": 1, "schedules": {"lr": {"*": None}}},
            ValueError,
            "not the state of a stepwell Scheduler: its schedule of lr is {'*': None}",
        ),
        ({"step": -2}, ValueError, "step must be at least -1, got -2"),
        ({"step": 1.5}, TypeError, "step must be a whole number of steps (int), got 1.5"),
    ],
)
def test_a_state_that_is_none_is_an_error(state: dict[str, Any], error: type[Exception], message: str) -> None:
    for way in ("same", "saved"):
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            Scheduler(sgd(), lr=Constant()).load_state_dict(state, schedule=way)  # type: ignore[arg-type]


def test_selectors_of_one_name_keep_their_schedules_apart() -> None:
    def make(first: Schedule) -> Scheduler:
        chosen = {lambda group: group["lr"] > 0.5: first, lambda group: group["lr"] > 0: Linear(end=0.5)}
        return Scheduler(sgd(1.0, 0.1), lr=chosen, horizon=4)

    state = json.loads(json.dumps(make(Cosine(end=0.2)).state_dict()))
    name = f"{__name__}.test_selectors_of_one_name_keep_their_schedules_apart.<locals>.make.<locals>.<lambda>"
    assert list(state["schedules"]["lr"]) == [name, f"{name} (2)"]
    other = make(Constant())
    with pytest.raises(ValueError, match=r"^the saved schedule of lr is .* this scheduler's is"):
        other.load_state_dict(state)
    other.load_state_dict(state | {"step": 4}, schedule="saved")
    assert rates(other.optimizer) == pytest.approx([0.2, 0.05])


def test_an_unknown_way_to_load_is_an_error() -> None:
    scheduler = Scheduler(sgd(), lr=Constant())
    with pytest.raises(ValueError, match=r"^schedule must be 'same', 'this' or 'saved', got 'old'$"):
        scheduler.load_state_dict(scheduler.state_dict(), schedule="old")  # type: ignore[arg-type]


def test_last_epoch_asks_the_scheduled_groups_alone_for_their_bases() -> None:
    optimizer = sgd(0.5, 0.5)
    optimizer.param_groups[1]["initial_lr"] = 1.0
    Scheduler(optimizer, lr={1: Linear(horizon=10)}, last_epoch=3)
    assert rates(optimizer) == [0.5, 0.6]


def test_last_epoch_goes_on_as_in_torch() -> None:
    optimizer, peers = sgd(0.5), sgd(0.5)
    for each in (optimizer, peers):
        each.param_groups[0]["initial_lr"] = 1.0
    scheduler = Scheduler(optimizer, lr=Linear(horizon=10), last_epoch=3)
    peer = LambdaLR(peers, lambda step: (10 - step) / 10, last_epoch=3)
    assert scheduler.last_epoch == peer.last_epoch == 4
    assert rates(optimizer) == rates(peers) == [0.6]
