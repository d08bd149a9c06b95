"""What changes in mid-training, and says so: selectors, a new base, another counting, tensors."""

from __future__ import annotations

import copy
import json
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ChainedScheduler, LambdaLR, SequentialLR

import stepwell
from stepwell.scheduler import Scheduler
from stepwell.schedules import Constant, Cosine, Function, Linear, MultiStep, sequence


def weight() -> Tensor:
    return torch.zeros(2, requires_grad=True)


def sgd(*rates: float, names: tuple[str, ...] = (), **options: Any) -> torch.optim.SGD:
    groups: list[dict[str, Any]] = [{"params": [weight()], "lr": rate} for rate in rates or (1.0,)]
    for group, name in zip(groups, names, strict=False):
        group["name"] = name
    return torch.optim.SGD(groups, **options)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(scheduler: Scheduler, steps: int) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append(rates(scheduler.optimizer))
        scheduler.step()
    return seen


# Selectors


def test_groups_have_schedules_of_their_own() -> None:
    optimizer = sgd(1.0, 2.0, 4.0, names=("embedding", "blocks.norm", "blocks.mlp"))
    scheduler = Scheduler(optimizer, lr={"*norm": Constant(), 0: Linear(end=0.5), "*": Linear()}, horizon=2)
    assert run(scheduler, 3) == [[1.0, 2.0, 4.0], [0.75, 2.0, 2.0], [0.5, 2.0, 0.0]]
    assert scheduler.get_lr() == [0.5, 2.0, 0.0]
    assert scheduler.schedules == {"lr": {"*norm": Constant(), 0: Linear(end=0.5, horizon=2), "*": Linear(horizon=2)}}


def test_a_group_that_nothing_selects_keeps_its_values() -> None:
    optimizer = sgd(1.0, 2.0, weight_decay=0.5)
    scheduler = Scheduler(
        optimizer,
        lr={lambda group: group.get("initial_lr", group["lr"]) > 1: Linear()},
        weight_decay={1: Linear()},
        horizon=2,
    )
    assert run(scheduler, 2) == [[1.0, 2.0], [1.0, 1.0]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert scheduler.last == {"lr": [1.0, 0.0], "weight_decay": [0.5, 0.0]}
    optimizer.add_param_group({"params": [weight()], "lr": 8.0})
    scheduler.step(1)
    assert rates(optimizer) == [1.0, 1.0, 4.0]


def big(group: dict[str, Any]) -> bool:
    return group["lr"] > 1


def test_a_state_keeps_the_schedules_by_selector() -> None:
    def scheduler(end: float) -> Scheduler:
        return Scheduler(sgd(1.0, 2.0), lr={big: Linear(end=end), 0: Linear()}, horizon=4)

    saved = scheduler(0.5)
    saved.step()
    state = saved.state_dict()
    assert state["schedules"] == {
        "lr": {f"{__name__}.big": "Linear(horizon=4, end=0.5)", "group 0": "Linear(horizon=4)"}
    }
    other = scheduler(0.0)
    with pytest.raises(ValueError, match="the saved schedule of lr is"):
        other.load_state_dict(state)
    other.load_state_dict(state, schedule="saved")
    assert rates(other.optimizer) == rates(saved.optimizer) == [0.75, 1.75]


@pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        (
            {"norm": Constant(), "*": Linear()},
            ValueError,
            "the selector 'norm' of lr matches no group; there are 2, called norms, rest (did you mean 'norms'?)",
        ),
        ({5: Constant()}, ValueError, "the selector 'group 5' of lr matches no group; there are 2"),
        ({}, ValueError, "lr has no schedule: give one for each selector"),
        (
            {1.5: Constant()},
            TypeError,
            "a selector of lr must be a group's name, its index, or a function of the group",
        ),
        ({"*": 0.5}, TypeError, "lr must be a schedule, such as Cosine(warmup=0.1), got 0.5"),
    ],
)
def test_selectors_that_are_wrong(lr: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        Scheduler(sgd(1.0, 2.0, names=("norms", "rest")), lr=lr, horizon=5)


# Functions


def test_a_python_function_is_a_schedule() -> None:
    scheduler = Scheduler(sgd(2.0), lr=lambda step: 1 / (1 + step), horizon=3)
    assert [rate for (rate,) in run(scheduler, 6)] == pytest.approx([2, 1, 2 / 3, 0.5, 0.5, 0.5])
    peer = LambdaLR(optimizer := sgd(2.0), lambda step: 0.5 ** (step // 2))
    ours = Scheduler(sgd(2.0), lr=lambda step: 0.5 ** (step // 2))  # asks more of its step than arithmetic
    for _ in range(6):
        assert rates(ours.optimizer) == rates(optimizer)
        optimizer.step()
        peer.step()
        ours.step()


# A new base


def test_override_gives_a_new_base_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd(1.0, 0.5)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4)
    scheduler.step()
    with caplog.at_level(logging.INFO, logger="stepwell"):
        assert scheduler.override(lr=4.0) == {"lr": [3.0, 1.5]}
    assert caplog.messages == ["overridden: next lr = 3, was 0.75 (first of 2 groups)"]
    assert scheduler.base_lrs == [4.0, 2.0]
    scheduler.step()
    assert rates(optimizer) == [2.0, 1.0]


def test_numbers_of_numpy_are_rates_and_bases() -> None:
    optimizer = sgd(np.float32(0.5), momentum=np.float32(0.75))  # type: ignore[arg-type]
    scheduler = Scheduler(optimizer, lr=Linear(), momentum=Constant(), horizon=4)
    scheduler.step()
    assert scheduler.last == {"lr": [0.375], "momentum": [0.75]}
    scheduler.override(lr=np.float32(0.25))  # type: ignore[arg-type]
    assert (rates(optimizer), scheduler.base_lrs) == ([0.1875], [0.25])
    assert {type(value) for value in (*scheduler.base_lrs, *scheduler.get_last_lr(), *scheduler.get_lr())} == {float}


def test_override_leaves_groups_alone_that_are_not_scheduled(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd(2e-3, 1e-3, names=("rest", "scheduled"))
    scheduler = Scheduler(optimizer, lr={"scheduled": Linear()}, horizon=4)
    with caplog.at_level(logging.INFO, logger="stepwell"):
        assert scheduler.override(lr=5e-4) == {"lr": [2e-3, 5e-4]}
    assert caplog.messages == ["overridden: next lr of group 1 = 0.0005, was 0.001"]
    assert scheduler.base_lrs == [2e-3, 5e-4]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # brings groups of its own
    scheduler.override(lr=4e-4)
    assert scheduler.base_lrs == [2e-3, 4e-4]


def test_override_of_an_element_and_of_groups_at_zero() -> None:
    optimizer = torch.optim.AdamW(
        [{"params": [weight()], "weight_decay": 0.0}, {"params": [weight()]}], weight_decay=0.1
    )
    scheduler = Scheduler(optimizer, horizon=4, weight_decay=Constant(), **{"betas[0]": Linear(end=0.5)})
    scheduler.step(4)
    scheduler.override(weight_decay=0.3, **{"betas[0]": 0.8})
    assert scheduler.last == {"weight_decay": [0.0, pytest.approx(0.3)], "betas[0]": [0.4, 0.4]}
    assert optimizer.param_groups[0]["betas"][1] == 0.999


@pytest.mark.parametrize(
    ("bases", "error", "message"),
    [
        (
            {"weight_decy": 0.1},
            TypeError,
            "'weight_decy' is not scheduled here; there are lr, weight_decay (did you mean",
        ),
        ({"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
        ({"lr": float("nan")}, ValueError, "lr must be a finite number, got nan"),
        ({"lr": -0.1}, ValueError, "lr must be at least 0, got -0.1"),
        ({"lr": 3.0, "weight_decay": 0.1}, ValueError, "every group's base of weight_decay is 0"),
    ],
)
def test_overrides_that_are_wrong_change_nothing(bases: Any, error: type[Exception], message: str) -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(), weight_decay=Linear(), horizon=4)
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        scheduler.override(**bases)
    assert scheduler.base_lrs == [1.0]


# Tensors


def take(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


def test_rates_are_kept_in_tensors_where_a_compiled_step_needs_them() -> None:
    optimizer = torch.optim.AdamW([weight()], lr=0.5, weight_decay=0.25)
    scheduler = Scheduler(optimizer, lr=Linear(), weight_decay=Linear(), horizon=4, tensors=True)
    (group,) = optimizer.param_groups
    live = group["lr"]
    assert isinstance(live, Tensor)
    scheduler.step()
    assert group["lr"] is live
    assert (live.item(), group["weight_decay"]) == (0.375, 0.1875)
    take(optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"].item() == 0.25
    assert scheduler.base_lrs == [0.5]


def test_a_step_of_ours_reads_the_tensor() -> None:
    parameter = torch.ones(1, requires_grad=True)
    optimizer = stepwell.SGD([parameter], lr=0.5)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=2, tensors=True)
    for expected in (0.5, 0.25, 0.25):
        take(optimizer)
        scheduler.step()
        assert parameter.item() == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about torch, while it compiles
def test_a_compiled_step_is_compiled_once() -> None:
    from torch._dynamo.testing import CompileCounter

    def compilations(tensors: bool) -> int:
        torch._dynamo.reset()
        parameter = torch.ones(3, requires_grad=True)
        parameter.grad = torch.ones(3)
        optimizer = torch.optim.SGD([parameter], lr=0.5)
        scheduler = Scheduler(optimizer, lr=Linear(), horizon=8, tensors=tensors)
        counter = CompileCounter()
        step = torch.compile(optimizer.step, backend=counter)
        for _ in range(4):
            step()
            scheduler.step()
        # Rates of 0.5, 0.4375, 0.375 and 0.3125 on a gradient of 1.
        assert parameter.tolist() == [1 - 1.625] * 3
        return int(counter.frame_count)

    assert compilations(tensors=True) < compilations(tensors=False)


# Among torch's schedulers


def sequential() -> tuple[torch.optim.Optimizer, SequentialLR]:
    optimizer = sgd(1.0, momentum=0.9)
    parts = [Scheduler(optimizer, lr=schedule, horizon=5) for schedule in (Linear(end=0.5), Linear(), Cosine(end=0.1))]
    return optimizer, SequentialLR(optimizer, parts, milestones=[3, 8])


@pytest.mark.parametrize("cut", range(11))
@pytest.mark.parametrize("scheduler_first", [False, True])
def test_torchs_sequential_resumes(cut: int, scheduler_first: bool) -> None:
    optimizer, scheduler = sequential()
    for _ in range(cut):
        scheduler.step()
    resumed, second = sequential()
    states = [
        (resumed, copy.deepcopy(optimizer.state_dict())),
        (second, copy.deepcopy(scheduler.state_dict())),
    ]
    for each, state in reversed(states) if scheduler_first else states:
        each.load_state_dict(state)
    for _ in range(4):
        assert rates(resumed) == rates(optimizer)
        scheduler.step()
        second.step()


def test_torchs_chained_runs_it_as_it_runs_lambda_lr() -> None:
    ours, theirs = sgd(1.0, weight_decay=0.5), sgd(1.0)
    chained = ChainedScheduler(
        [Scheduler(ours, lr=Linear(), horizon=8), Scheduler(ours, weight_decay=Linear(), horizon=8)], ours
    )
    peer = ChainedScheduler([LambdaLR(theirs, lambda step: (8 - step) / 8)], theirs)
    for step in range(8):
        assert rates(ours) == rates(theirs) == chained.get_last_lr()
        assert ours.param_groups[0]["weight_decay"] == 0.5 * (8 - step) / 8
        for optimizer, each in ((ours, chained), (theirs, peer)):
            optimizer.step()
            each.step()


# States


def test_the_saved_side_can_be_taken() -> None:
    saved = Scheduler(sgd(1.0), lr=MultiStep(at=[2], gamma=0.5))
    saved.step(3)
    scheduler = Scheduler(sgd(1.0), lr=Linear(), horizon=10)
    scheduler.load_state_dict(saved.state_dict(), schedule="saved")
    assert scheduler.schedules == {"lr": MultiStep(at=[2], gamma=0.5)}
    assert rates(scheduler.optimizer) == [0.5]
    scheduler.extend(20, how="stretch")  # from then on it is this scheduler's own
    assert scheduler.schedules == {"lr": MultiStep(horizon=20, at=[2], gamma=0.5)}


def test_the_saved_side_is_taken_as_it_was_given() -> None:
    saved = Scheduler(sgd(1.0), lr=sequence(Constant(), Linear(), at=[0.5]), horizon=10)
    state = json.loads(json.dumps(saved.state_dict()))
    scheduler = Scheduler(sgd(1.0), lr=Linear(), horizon=99)
    scheduler.load_state_dict(state, schedule="saved")
    assert scheduler.horizon == 10
    assert scheduler.state_dict() == state
    scheduler.extend(20, how="stretch")
    assert [rate for (rate,) in run(scheduler, 21)] == pytest.approx([1.0] * 10 + [1 - t / 10 for t in range(11)])


def test_a_state_that_has_the_lengths_in_steps_alone_loads_too() -> None:
    state = {"step": 3, "schedules": {"lr": "Linear(horizon=10, warmup=2)"}}
    scheduler = Scheduler(sgd(1.0), lr=Constant(), horizon=99)
    scheduler.load_state_dict(state, schedule="saved")
    assert (scheduler.horizon, rates(scheduler.optimizer)) == (99, [7 / 8])
    scheduler.extend(18, how="stretch")
    assert scheduler.schedules == {"lr": Linear(horizon=18, warmup=2)}


def halves(step: int) -> float:
    return 0.5**step


def test_a_saved_function_has_to_be_here() -> None:
    saved = Scheduler(sgd(1.0), lr=halves)
    saved.step(3)
    with pytest.raises(
        ValueError, match=f"^the function '{re.escape(__name__)}.halves' is not among functions=\\[\\]$"
    ):
        Scheduler(sgd(1.0), lr=Constant()).load_state_dict(saved.state_dict(), schedule="saved")
    scheduler = Scheduler(sgd(1.0), lr=Function(function=halves))
    scheduler.load_state_dict(saved.state_dict())
    assert rates(scheduler.optimizer) == [0.125]


def test_saved_schedules_of_other_hyper_parameters_are_an_error() -> None:
    saved = Scheduler(sgd(1.0), lr=Linear(), weight_decay=Linear(), horizon=10).state_dict()
    with pytest.raises(ValueError, match=r"^a schedule of weight_decay was saved too: give this scheduler one"):
        Scheduler(sgd(1.0), lr=Linear(), horizon=10).load_state_dict(saved, schedule="saved")
