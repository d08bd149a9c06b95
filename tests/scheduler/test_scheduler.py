from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, SequentialLR

from stepwell.routing import create_scheduler
from stepwell.scheduler import Scheduler
from stepwell.schedules import Constant, Cosine, Linear


def weight() -> Tensor:
    return torch.zeros(2, requires_grad=True)


def sgd(*rates: float, **options: Any) -> torch.optim.SGD:
    """An optimizer with one group for each rate."""
    return torch.optim.SGD([{"params": [weight()], "lr": rate} for rate in rates or (1.0,)], **options)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(scheduler: Scheduler, steps: int, *, name: str = "lr") -> list[float]:
    """What stands in the first group at each of the next steps."""
    seen = []
    for _ in range(steps):
        seen.append(scheduler.optimizer.param_groups[0][name])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


# The values


def test_the_constructor_sets_step_0_and_step_goes_on() -> None:
    optimizer = sgd(0.5)
    scheduler = Scheduler(optimizer, lr=Linear(warmup=2), horizon=6)
    assert run(scheduler, 9) == [0.0, 0.25, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0, 0.0]


def test_it_equals_lambda_lr_with_transformers_formula() -> None:
    def factor(step: int) -> float:
        if step < 5:
            return step / 5
        return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - 5) / 35)))

    ours, theirs = sgd(0.3, 0.01), sgd(0.3, 0.01)
    scheduler, peer = Scheduler(ours, lr=Cosine(horizon=40, warmup=5)), LambdaLR(theirs, factor)
    for _ in range(41):
        assert rates(ours) == pytest.approx(rates(theirs), rel=1e-12, abs=1e-15)
        assert scheduler.get_last_lr() == pytest.approx(peer.get_last_lr(), rel=1e-12, abs=1e-15)
        assert scheduler.last_epoch == peer.last_epoch
        assert scheduler.base_lrs == peer.base_lrs
        for optimizer, each in ((ours, scheduler), (theirs, peer)):
            optimizer.step()
            each.step()


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=4), st.integers(1, 60))
def test_groups_keep_their_ratios(bases: list[float], horizon: int) -> None:
    optimizer = sgd(*bases)
    schedule = Cosine(warmup=0.2, end=0.1)
    scheduler = Scheduler(optimizer, lr=schedule, horizon=horizon)
    for step in range(horizon + 3):
        assert rates(optimizer) == [base * schedule.resolve(horizon)(step) for base in bases]
        scheduler.step()
    assert scheduler.base_lrs == bases


def test_any_hyper_parameter_is_scheduled_in_the_groups_that_have_it() -> None:
    optimizer = sgd(1.0, 1.0, momentum=0.8, weight_decay=0.5)
    del optimizer.param_groups[1]["weight_decay"]
    optimizer.param_groups[1]["momentum"] = None
    scheduler = Scheduler(optimizer, weight_decay=Linear(end=2.0), momentum=Linear(), horizon=4)
    scheduler.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.5 * 1.25
    assert optimizer.param_groups[0]["momentum"] == 0.8 * 0.75
    assert optimizer.param_groups[0]["initial_weight_decay"] == 0.5
    assert optimizer.param_groups[1]["momentum"] is None
    assert "weight_decay" not in optimizer.param_groups[1]
    assert rates(optimizer) == [1.0, 1.0]
    assert scheduler.get_last_lr() == scheduler.get_lr() == scheduler.base_lrs == [1.0, 1.0]


def test_one_element_of_a_tuple_is_scheduled_by_its_index() -> None:
    optimizer = torch.optim.AdamW([weight()], betas=(0.8, 0.5))
    scheduler = Scheduler(optimizer, horizon=4, **{"betas[0]": Linear(end=0.5), "betas[1]": Linear()})
    expected = [(0.8, 0.5), (0.7, 0.375), (0.6, 0.25), (0.5, 0.125), (0.4, 0.0), (0.4, 0.0)]
    assert run(scheduler, 6, name="betas") == [pytest.approx(pair) for pair in expected]
    assert optimizer.param_groups[0]["initial_betas"] == (0.8, 0.5)
    assert type(optimizer.param_groups[0]["betas"]) is tuple


def test_a_tensor_is_written_in_place() -> None:
    rate = torch.tensor(0.5)
    optimizer = torch.optim.AdamW([weight()], lr=rate)
    live = optimizer.param_groups[0]["lr"]
    scheduler = Scheduler(optimizer, lr=Linear(horizon=4))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is live
    assert live.item() == 0.375
    last = scheduler.get_last_lr()[0]
    assert isinstance(last, Tensor)
    last.fill_(9.0)
    assert live.item() == 0.375
    assert scheduler.base_lrs == [0.5]
    scheduler.step()
    assert live.item() == 0.25


def test_a_tensor_with_one_element_and_a_base_that_torch_kept() -> None:
    optimizer = torch.optim.AdamW([weight()], lr=torch.tensor([0.5]))
    LambdaLR(optimizer, lambda _: 1.0)
    assert isinstance(optimizer.param_groups[0]["initial_lr"], Tensor)
    scheduler = Scheduler(optimizer, lr=Linear(horizon=4))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"].tolist() == [0.375]
    assert scheduler.get_lr() == [0.375]


def test_a_group_added_later_is_scheduled_from_then_on() -> None:
    optimizer = sgd(1.0)
    scheduler = Scheduler(optimizer, lr=Linear(horizon=8))
    scheduler.step()
    optimizer.add_param_group({"params": [weight()], "lr": 0.5})
    assert scheduler.base_lrs == [1.0, 0.5]
    scheduler.step()
    assert rates(optimizer) == [0.75, 0.375]
    assert scheduler.get_last_lr() == [0.75, 0.375]
    assert optimizer.param_groups[1]["initial_lr"] == 0.5


def test_a_base_that_stands_in_the_group_is_the_base() -> None:
    # As in torch: a second scheduler on one optimizer scales what the first one found.
    optimizer = sgd(1.0)
    run(Scheduler(optimizer, lr=Linear(horizon=4)), 2)
    assert rates(optimizer) == [0.5]
    Scheduler(optimizer, lr=Linear(horizon=4))
    assert rates(optimizer) == [1.0]


def test_the_base_can_be_changed() -> None:
    scheduler = Scheduler(sgd(1.0, 2.0), lr=Linear(horizon=4))
    scheduler.base_lrs = [4.0, 8.0]
    scheduler.step()
    assert scheduler.get_last_lr() == [3.0, 6.0]


# Being a torch scheduler


def test_it_is_a_torch_scheduler_and_leaves_the_optimizer_alone() -> None:
    optimizer = torch.optim.AdamW([weight()])
    before = set(vars(optimizer))
    scheduler = create_scheduler(optimizer, "cosine", horizon=10)
    assert isinstance(scheduler, LRScheduler)
    assert set(vars(optimizer)) == before
    assert "step" not in vars(optimizer)


def test_a_step_that_the_grad_scaler_skips_gives_no_warning() -> None:
    # Warnings are errors here. torch's own schedulers warn, for optimizer.step() has not been called.
    parameter = weight()
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = Scheduler(optimizer, lr=Linear(horizon=4))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale((parameter * math.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    assert parameter.tolist() == [0.0, 0.0]
    assert rates(optimizer) == [0.75]


def test_step_goes_to_a_given_step() -> None:
    optimizer = sgd(1.0)
    scheduler = Scheduler(optimizer, lr=Linear(horizon=4))
    scheduler.step(3)
    assert scheduler.last_epoch == 3
    assert rates(optimizer) == scheduler.get_lr() == [0.25]
    scheduler.step()
    assert rates(optimizer) == [0.0]
    with pytest.raises(ValueError, match=r"^epoch must be at least 0, got -1$"):
        scheduler.step(-1)


def test_torchs_sequential_runs_it() -> None:
    optimizer = sgd(1.0)
    pieces = [Scheduler(optimizer, lr=Linear(horizon=4)), Scheduler(optimizer, lr=Linear(horizon=2))]
    scheduler = SequentialLR(optimizer, pieces, milestones=[2])
    seen = []
    for _ in range(6):
        seen.append(rates(optimizer)[0])
        optimizer.step()
        scheduler.step()
    assert seen == [1.0, 0.75, 1.0, 0.5, 0.0, 0.0]


def test_it_counts_its_calls_where_accelerate_looks() -> None:
    scheduler = Scheduler(sgd(), lr=Constant())
    assert scheduler._step_count == 1
    scheduler.step()
    assert scheduler._step_count == 2


def test_it_can_be_copied_with_its_optimizer() -> None:
    scheduler = Scheduler(sgd(1.0), lr=Linear(horizon=4))
    twin = copy.deepcopy(scheduler)
    twin.step()
    assert rates(twin.optimizer) == [0.75]
    assert rates(scheduler.optimizer) == [1.0]


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Scheduler("sgd", lr=Constant()), TypeError, "optimizer must be a torch.optim.Optimizer, got str"),
        (
            lambda: Scheduler(sgd()),
            ValueError,
            "a Scheduler needs at least one schedule, such as lr=Cosine(warmup=0.1)",
        ),
        (
            lambda: Scheduler(sgd(), lr=0.1),
            TypeError,
            "lr must be a schedule, such as Cosine(warmup=0.1), got 0.1; its base stands in the optimizer",
        ),
        (
            lambda: Scheduler(sgd(), weight_decy=Constant()),
            TypeError,
            "no group of the optimizer has a number 'weight_decy'; there are lr, momentum, dampening, weight_decay "
            "(did you mean 'weight_decay'?)",
        ),
        (
            lambda: Scheduler(sgd(), nesterov=Constant()),
            TypeError,
            "no group of the optimizer has a number 'nesterov'; there are lr, momentum, dampening, weight_decay",
        ),
        (
            lambda: Scheduler(sgd(), lr=Linear(), horizn=10),
            TypeError,
            "no group of the optimizer has a number 'horizn'; there are lr, momentum, dampening, weight_decay "
            "(did you mean 'horizon'?)",
        ),
        (
            lambda: Scheduler(torch.optim.AdamW([weight()]), betas=Constant()),
            TypeError,
            "betas is not one number: schedule betas[0] or betas[1]",
        ),
        (
            lambda: Scheduler(torch.optim.AdamW([weight()]), **{"betas[2]": Constant()}),
            TypeError,
            "no group of the optimizer has a number 'betas[2]'; there are lr, betas[0], betas[1], eps, weight_decay "
            "(did you mean 'betas[1]'?)",
        ),
        (
            lambda: Scheduler(sgd(), lr=Linear()),
            ValueError,
            "Linear() needs a horizon, the total number of optimizer steps: give horizon= to the schedule or to its "
            "scheduler, or call resolve(horizon)",
        ),
        (
            lambda: Scheduler(sgd(), lr=Constant(warmup=11), horizon=10),
            ValueError,
            "warmup must be at most the horizon of 10 steps, got 11",
        ),
        (lambda: Scheduler(sgd(), lr=Linear(), horizon=0), ValueError, "horizon must be at least 1 step, got 0"),
        (
            lambda: Scheduler(sgd(), lr=Constant(), last_epoch=-2),
            ValueError,
            "last_epoch must be at least -1, got -2",
        ),
        (
            lambda: Scheduler(sgd(), lr=Constant(), last_epoch="3"),
            TypeError,
            "last_epoch must be a whole number of steps (int), got '3'",
        ),
        (
            lambda: Scheduler(sgd(1.0, 2.0), lr=Constant(), last_epoch=3),
            ValueError,
            "group 0 has no 'initial_lr', the base that the schedule of lr multiplies: load the optimizer's state "
            "before giving last_epoch",
        ),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


def test_a_refused_scheduler_leaves_the_groups_as_they_were() -> None:
    optimizer = sgd(1.0)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="needs a horizon"):
        Scheduler(optimizer, lr=Constant(warmup=5), weight_decay=Linear())
    assert optimizer.state_dict() == before


def test_rates_in_tensors_have_float32s_digits_whatever_the_default() -> None:
    optimizer = sgd(6e-5)
    torch.set_default_dtype(torch.bfloat16)
    try:
        Scheduler(optimizer, lr=Constant(), horizon=4, tensors=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rates(optimizer) == [pytest.approx(6e-5, rel=1e-7)]


def test_a_line_says_what_is_scheduled_and_where_it_stands():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = Scheduler(optimizer, lr=Cosine(warmup=0.1), horizon=2000)
    assert repr(scheduler) == f"<Scheduler at step 0: lr={Cosine(warmup=0.1).resolve(2000)!r}>"
