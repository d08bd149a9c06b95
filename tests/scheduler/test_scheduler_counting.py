"""What counts as a step: calls as in torch, or the optimizer's own steps; and groups that come between two of them."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.optim.lr_scheduler import SequentialLR

import stepwell
from stepwell.scheduler import Scheduler, hearing
from stepwell.schedules import Constant, Linear


def weight() -> Tensor:
    return torch.zeros(2, requires_grad=True)


def sgd(*rates: float, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [weight()], "lr": rate} for rate in rates or (1.0,)], **options)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def take(optimizer: torch.optim.Optimizer, gradient: float = 1.0) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, gradient)
    optimizer.step()


def test_a_step_that_goes_into_a_graph_counts_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = sgd(1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    take(optimizer)
    with monkeypatch.context() as captured:
        captured.setattr(hearing, "capturing", lambda _: True)
        take(optimizer)
    assert scheduler.last_epoch == 1
    take(optimizer)
    assert scheduler.last_epoch == 2


def test_the_optimizers_own_steps_count_however_often_step_is_called() -> None:
    optimizer = sgd(1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    seen = []
    for _ in range(3):
        seen += rates(optimizer)
        take(optimizer)
        for _ in range(8):  # processes, or micro-batches
            scheduler.step()
    assert seen == [1.0, 0.75, 0.5]
    assert scheduler.last_epoch == 3


@pytest.mark.parametrize("make", [torch.optim.SGD, stepwell.SGD], ids=["torch", "stepwell"])
def test_steps_that_are_skipped_do_not_count(make: Any) -> None:
    parameter = weight()
    optimizer = make([parameter], lr=1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor, expected in ((float("inf"), 1.0), (1.0, 0.75), (float("nan"), 0.75), (1.0, 0.5)):
        optimizer.zero_grad()
        scaler.scale((parameter * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert rates(optimizer) == [expected]
        assert scheduler.last_epoch == round(4 * (1 - expected))


def test_steps_that_the_optimizer_leaves_out_do_not_count() -> None:
    optimizer = stepwell.Optimizer([weight()], stepwell.rules.SGD(lr=1.0), on_nonfinite="skip")
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    take(optimizer, float("nan"))
    assert scheduler.last_epoch == 0
    take(optimizer)
    assert scheduler.last_epoch == 1


@pytest.mark.parametrize("counts", ["calls", "steps"])
def test_a_copy_goes_its_own_way(counts: Any) -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(), horizon=4, counts=counts)
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        take(twin.optimizer)
        twin.step()
        assert rates(twin.optimizer) == [0.75]
        assert rates(scheduler.optimizer) == [1.0]


def test_an_unknown_way_to_count_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^counts must be 'calls' or 'steps', got 'epochs'$"):
        Scheduler(sgd(), lr=Constant(), counts="epochs")  # type: ignore[arg-type]


def test_micro_batches_and_epochs_do_not_count() -> None:
    def run(calls: list[int]) -> list[float]:
        """Call it so many times before and after each of two optimizer steps; the rates that these steps had."""
        optimizer = sgd(1.0)
        scheduler = Scheduler(optimizer, lr=Linear(), horizon=8, counts="steps")
        used = []
        for each in calls:
            for _ in range(each):
                scheduler.step()
            used += rates(optimizer)
            take(optimizer)
        return used

    assert run([0, 1, 1]) == [1.0, 0.875, 0.75]
    assert run([4, 4, 4]) == [1.0, 0.875, 0.75]  # also in the micro-batches before the first step
    assert run([0, 0, 0]) == [1.0, 0.875, 0.75]  # once an epoch


def test_in_torchs_sequential_steps_count_from_each_ones_turn() -> None:
    optimizer = sgd(1.0)
    parts = [Scheduler(optimizer, lr=Linear(), horizon=horizon, counts="steps") for horizon in (10, 4)]
    scheduler = SequentialLR(optimizer, parts, milestones=[3])  # type: ignore[arg-type]
    seen = []
    for _ in range(8):
        seen += rates(optimizer)
        take(optimizer)
        scheduler.step()
    assert seen == pytest.approx([1.0, 0.9, 0.8, 1.0, 0.75, 0.5, 0.25, 0.0])


# Groups that are added later


@pytest.mark.parametrize("counts", ["calls", "steps"])
@pytest.mark.parametrize("make", [torch.optim.SGD, stepwell.SGD], ids=["torch", "stepwell"])
def test_an_added_group_has_the_rate_of_the_step_at_once(make: Any, counts: Any) -> None:
    optimizer = make([weight()], lr=1.0)
    scheduler = Scheduler(optimizer, lr={0: Linear(), "*": Linear(end=0.5)}, horizon=4, counts=counts)
    take(optimizer)
    scheduler.step()
    new = weight()
    optimizer.add_param_group({"params": [new], "lr": 8.0})
    take(optimizer)
    assert new.tolist() == [-8.0 * 0.875] * 2  # not a step at the full 8
    scheduler.step()
    assert rates(optimizer) == [0.5, 8.0 * 0.75]
    assert scheduler.base_lrs == [1.0, 8.0]


def test_an_added_group_leaves_the_others_alone() -> None:
    optimizer = sgd(1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4)
    optimizer.param_groups[0]["lr"] = 0.3  # as somebody else may have set it
    optimizer.add_param_group({"params": [weight()], "lr": 2.0})
    take(optimizer)
    assert rates(optimizer) == [0.3, 2.0]
    scheduler.step()
    assert rates(optimizer) == [0.75, 1.5]


def test_a_scheduler_that_is_gone_says_nothing_to_new_groups() -> None:
    optimizer = sgd(1.0, weight_decay=0.5)
    Scheduler(optimizer, weight_decay=Linear(), horizon=4).step()
    gc.collect()
    optimizer.add_param_group({"params": [weight()], "weight_decay": 0.5})
    take(optimizer)
    assert optimizer.param_groups[1]["weight_decay"] == 0.5


@pytest.mark.parametrize("let_go", [False, True])
def test_one_that_counts_steps_need_not_be_kept_unless_it_is_to_be_dropped(let_go: bool) -> None:
    optimizer = sgd(1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    if let_go:
        scheduler._let_go()
    take(optimizer)
    del scheduler
    gc.collect()
    take(optimizer)
    assert rates(optimizer) == [0.75 if let_go else 0.5]


def test_in_torchs_sequential_a_new_group_gets_the_rate_of_the_one_whose_turn_it_is() -> None:
    optimizer = sgd(1.0)
    parts = [Scheduler(optimizer, lr=Linear(end=end), horizon=4) for end in (0.5, 0.0, 1.0)]
    scheduler = SequentialLR(optimizer, parts, milestones=[2, 6])  # type: ignore[arg-type]
    for _ in range(4):
        take(optimizer)
        scheduler.step()
    optimizer.add_param_group({"params": [weight()], "lr": 2.0})
    take(optimizer)
    assert rates(optimizer) == [0.5, 1.0]  # two steps into the second


class Stepping(torch.optim.SGD):
    """Does something of its own at each step, and calls its base class's step for the rest."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and bool(parameter.grad.isnan().any()):
                    raise ValueError("not a number")
        return super().step(closure)


def test_a_step_that_calls_its_base_classs_step_is_one() -> None:
    torch.optim.SGD([weight()])  # from now on torch runs hooks in both steps
    optimizer = Stepping([weight()], lr=1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    take(optimizer)
    assert scheduler.last_epoch == 1
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad.fill_(torch.nan)
    with pytest.raises(ValueError, match="not a number"):  # within the outer step, before the inner one
        optimizer.step()
    assert scheduler.last_epoch == 1
    parameter.grad.zero_()
    optimizer.step()
    assert (scheduler.last_epoch, rates(optimizer)) == (2, [0.5])


# Wrappers


class Wrapper(torch.optim.Optimizer):
    """Has no hooks of its own, as Accelerate's has none."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> None:
        self.optimizer.step(closure)


class Hidden(Wrapper):
    """Does not show what it wraps."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.inner = optimizer

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups

    def step(self, closure: Any = None) -> None:
        self.inner.step(closure)


def test_steps_within_a_wrapper_are_heard_of() -> None:
    optimizer = Wrapper(Wrapper(sgd(1.0)))
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")
    take(optimizer)
    assert scheduler.last_epoch == 1
    optimizer.optimizer.optimizer.add_param_group({"params": [weight()], "lr": 2.0})
    take(optimizer)
    assert rates(optimizer) == [0.5, 1.0]


def test_a_wrapper_that_shows_no_hooks_is_called() -> None:
    optimizer = Hidden(sgd(1.0))
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4)
    take(optimizer)
    scheduler.step()
    assert rates(optimizer) == [0.75]
    with pytest.raises(
        TypeError, match=r"^counts='steps' needs an optimizer with the hooks .*, which a Hidden has not"
    ):
        Scheduler(optimizer, lr=Linear(), horizon=4, counts="steps")


@pytest.mark.parametrize("counts", ["calls", "steps"])
@pytest.mark.parametrize("make", [stepwell.AdamW, torch.optim.AdamW])
def test_the_step_by_which_torch_has_state_made_counts_for_none(make: Any, counts: Any) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = make(model.parameters(), lr=1.0)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=4, counts=counts)
    get_state_dict(model, optimizer)
    assert (scheduler.last_epoch, rates(optimizer)) == (0, [1.0])
    take(optimizer)
    scheduler.step()
    assert (scheduler.last_epoch, rates(optimizer)) == (1, [0.75])
