"""The range test: the curve by hand, and a model and an optimizer that are the same to the bit afterwards."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.range_test import RangeTest, find_lr
from stepwell.scheduler import Scheduler
from stepwell.schedules import Linear


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1)).double()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch.AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
    "torch.SGD": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "torch.AdamW, rate in a tensor": lambda params: torch.optim.AdamW(params, lr=torch.tensor(0.01)),
    "stepwell.AdamW": lambda params: stepwell.AdamW(params, lr=0.01),
    "stepwell.ScheduleFreeAdamW": lambda params: stepwell.ScheduleFreeAdamW(params, lr=0.01),
    "stepwell.AdamW, foreach": lambda params: stepwell.Optimizer(
        params, stepwell.rules.AdamW(lr=0.01), engine="foreach", clip_norm=1.0
    ),
}


def training(net: nn.Module, optimizer: torch.optim.Optimizer, fail_at: int | None = None) -> Callable[[], Any]:
    """One step of a training, on batches drawn from torch's random numbers."""
    taken = itertools.count()

    def step() -> torch.Tensor:
        if next(taken) == fail_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, dtype=torch.float64)
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def bits(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Everything there is, as values that can be compared."""
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    states = [dict(optimizer.state.get(p, {})) for p in net.parameters()]
    return copy.deepcopy([net.state_dict(), gradients, groups, states, torch.get_rng_state(), net.training])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))
    return bool(a == b)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("fail_at", [None, 7])
def test_everything_is_put_back_to_the_bit(name: str, steps_before: int, fail_at: int | None) -> None:
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    step = training(net, optimizer)
    for _ in range(steps_before):
        step()
    parameters = list(net.parameters())
    before = bits(net, optimizer)
    if fail_at is None:
        find_lr(training(net, optimizer), optimizer, net, steps=12)
    else:
        with pytest.raises(KeyboardInterrupt):
            find_lr(training(net, optimizer, fail_at), optimizer, net, steps=12)
    assert same(bits(net, optimizer), before)
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))

    # And training goes on as if nothing had been.
    after = [step().item() for _ in range(3)]
    twin = model()
    other = OPTIMIZERS[name](twin.parameters())
    again = training(twin, other)
    assert [again().item() for _ in range(steps_before + 3)][steps_before:] == after


def test_tensors_in_a_tuple_are_put_back_as_the_same_objects() -> None:
    parameter = torch.ones(2, requires_grad=True)
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = torch.optim.AdamW([parameter], betas=betas, foreach=False)  # type: ignore[arg-type]
    (group,) = optimizer.param_groups

    def step() -> float:
        parameter.grad = torch.ones(2)
        optimizer.step()
        group["betas"][0].fill_(0.5)
        return 1.0

    find_lr(step, optimizer, steps=2)
    assert group["betas"][0] is betas[0]
    assert group["betas"][1] is betas[1]
    assert [float(beta) for beta in group["betas"]] == pytest.approx([0.9, 0.999])


def quadratic(rates: list[float]) -> tuple[Callable[[], float], torch.optim.Optimizer]:
    """x² / 2 from x = 1 by gradient descent, whose step at rate r multiplies x by 1 − r."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=1.0)

    def step() -> float:
        rates.append(optimizer.param_groups[0]["lr"])
        loss = 0.5 * x.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, optimizer


def test_the_sweep_multiplies_or_adds() -> None:
    rates: list[float] = []
    found = find_lr(*quadratic(rates), low=1e-4, high=1e-2, steps=5)
    assert rates == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2])
    assert found.rates == tuple(rates)
    rates.clear()
    find_lr(*quadratic(rates), low=0.1, high=0.5, steps=5, sweep="linear")
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_losses_and_their_average_by_hand() -> None:
    # x goes 1, 0.9, 0.72, …; losses ½x². The average of share ½ without its bias: Σ ½^(n−k) lₖ / Σ ½^(n−k).
    found = find_lr(*quadratic([]), low=0.1, high=0.3, steps=3, sweep="linear", smoothing=0.5)
    losses = [0.5, 0.5 * 0.9**2, 0.5 * (0.9 * 0.8) ** 2]
    assert found.losses == pytest.approx(losses)
    expected = [losses[0], (losses[0] + 2 * losses[1]) / 3, (losses[0] + 2 * losses[1] + 4 * losses[2]) / 7]
    assert found.smoothed == pytest.approx(expected)
    assert find_lr(*quadratic([]), steps=10, smoothing=0).smoothed == find_lr(*quadratic([]), steps=10).losses


def test_it_stops_where_the_loss_takes_off() -> None:
    # Gradient descent on x² / 2 diverges above rate 2.
    found = find_lr(*quadratic([]), low=1e-2, high=1e3, steps=101, smoothing=0.5)
    assert found.diverged
    assert 2 < found.rates[-1] < 100
    assert not find_lr(*quadratic([]), low=1e-4, high=1e-1, steps=50).diverged


def test_a_loss_that_is_not_finite_ends_the_sweep() -> None:
    losses = iter([3.0, 2.0, math.nan])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    found = find_lr(lambda: next(losses), optimizer, steps=10)
    assert (found.losses, found.diverged) == ((3.0, 2.0), True)
    assert (found.steepest, found.valley) == (None, None)
    with pytest.raises(ValueError, match=r"^the loss is not finite at the first rate, 1e-07: something else is wrong"):
        find_lr(lambda: math.inf, optimizer, steps=10)


RATES = tuple(10.0 ** (index - 8) for index in range(8))


def test_suggestions_by_hand() -> None:
    # Differences of the neighbours of the points 1 to 6: 0, −2, −6, −5, −1.5, +6: steepest at point 3. It falls from
    # point 2 to point 6, and half-way between those is point 4.
    heights = (10.0, 10.0, 10.0, 8.0, 4.0, 3.0, 2.5, 9.0)
    found = RangeTest(RATES, heights, heights, diverged=True)
    assert found.steepest == RATES[3]
    assert found.valley == RATES[4]
    # One lucky batch at point 2: the differences are −9.5, +5, … there, and −4 at most later. The longest fall
    # passes it by: 10.5, 9, 8, 7, 6, 5, from point 0 to point 7.
    lucky = (10.5, 9.0, 1.0, 10.0, 8.0, 7.0, 6.0, 5.0)
    found = RangeTest(RATES, lucky, lucky, diverged=False)
    assert found.steepest == RATES[1]
    assert found.valley == RATES[3]
    rising = tuple(map(float, range(8)))
    assert RangeTest(RATES, rising, rising, diverged=False).steepest is None
    assert RangeTest(RATES, rising, rising, diverged=False).valley is None


def test_too_few_points_are_told() -> None:
    falling = (4.0, 3.0, 2.0, 1.0)
    text = str(RangeTest(RATES[:4], falling, falling, diverged=False))
    assert text.endswith("\ntoo few points to suggest a rate: 5 are needed; ended at 1e-05 after 4 steps")
    one = RangeTest(RATES[:1], falling[:1], falling[:1], diverged=True)
    assert str(one) == "too few points to suggest a rate: 5 are needed; diverged at 1e-08 after 1 step"


def test_a_loss_that_took_off_leaves_the_others_room() -> None:
    losses = (10.0, 12.0, 9.0, 6.0, 4.0, 5.0, 11.0, 1e12)
    smoothed = (10.0, 11.0, 9.0, 7.0, 5.0, 5.0, 8.0, 1e11)
    found = RangeTest(RATES, losses, smoothed, diverged=True)
    heights = [float(number) for number in re.findall(r"^ *([\d.]+) │", str(found), re.MULTILINE)]
    assert 10 <= max(heights) <= 12
    root = ElementTree.fromstring(found.svg())
    assert "12" in [text.text for text in root.iter() if text.get("class") == "tick end"]
    lines = [path for path in root.iter() if path.get("class") == "line" and path.get("d")]
    (clip,) = (one.get("id") for one in root.iter() if one.tag.endswith("clipPath"))
    assert [line.get("clip-path") for line in lines] == [f"url(#{clip})"] * 2


@pytest.mark.parametrize("loss", [1.0, 0.1, 2.302585])
@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.98])
def test_a_loss_that_never_changes_suggests_nothing(loss: float, smoothing: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    found = find_lr(lambda: loss, optimizer, smoothing=smoothing)
    assert set(found.smoothed) == {loss}
    assert (found.steepest, found.valley) == (None, None)


def test_groups_keep_their_ratios() -> None:
    parameters = [torch.ones(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parameters[0]], "lr": 0.1}, {"params": [parameters[1]], "lr": 0.5}])
    seen = []

    def step() -> float:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return 1.0

    find_lr(step, optimizer, low=0.01, high=0.04, steps=2)
    assert seen == [pytest.approx([0.01, 0.05]), pytest.approx([0.04, 0.2])]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_rates_that_a_warm_up_has_set_to_0_have_the_ratios_of_their_bases() -> None:
    net = model()
    first, *rest = net.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.05}])
    Scheduler(optimizer, lr=Linear(warmup=3), horizon=10)
    seen: list[list[float]] = []
    step = training(net, optimizer)

    def watched() -> Any:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return step()

    find_lr(watched, optimizer, net, low=1e-4, high=1e-2, steps=2)
    assert seen == [pytest.approx([1e-4, 5e-5]), pytest.approx([1e-2, 5e-3])]
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("counts", ["calls", "steps"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_scheduler_stands_still(counts: Any, fails: bool) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = Scheduler(optimizer, lr=Linear(), horizon=10, counts=counts)
    seen = []

    def step() -> Tensor:
        if fails and len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = (parameter - 1).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        return loss

    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        find_lr(step, optimizer, low=0.01, high=0.1, steps=10, sweep="linear")
    assert seen == pytest.approx([0.01 * k for k in range(1, len(seen) + 1)])
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (0, 0.1)
    optimizer.step()
    scheduler.step()
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (1, pytest.approx(0.09))


class Prepared(torch.optim.Optimizer):
    """A wrapper such as Accelerate's, which calls the constructor of no optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def step(self, closure: Any = None) -> None:
        self.optimizer.step(closure)


@pytest.mark.parametrize("counts", ["calls", "steps"])
@pytest.mark.parametrize("wrapped_for", ["the search", "the scheduler"])
def test_a_scheduler_stands_still_where_one_of_them_sees_a_wrapper(counts: Any, wrapped_for: str) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    prepared = Prepared(Prepared(optimizer))
    searched, scheduled = (prepared, optimizer) if wrapped_for == "the search" else (optimizer, prepared)
    scheduler = Scheduler(scheduled, lr=Linear(), horizon=20, counts=counts)

    def step() -> float:
        parameter.grad = torch.ones(1)
        prepared.step()
        scheduler.step()
        return 1.0

    find_lr(step, searched, steps=10)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (0, [0.1])
    step()
    assert scheduler.last_epoch == 1


def test_it_is_drawn() -> None:
    found = find_lr(*quadratic([]), low=1e-3, high=1.0, steps=30)
    text = str(found)
    assert "learning rate" in text
    assert text.endswith(f"steepest {found.steepest:.3g}, valley {found.valley:.3g}; ended at 1 after 30 steps")
    drawn = ElementTree.fromstring(found.svg())
    assert drawn.get("aria-label") == "loss against learning rate: loss; smoothed."
    words = ["".join(one.itertext()) for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"loss", "smoothed", "learning rate"} <= set(words)
    assert any(word.startswith("steepest ") for word in words)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"low": 0}, ValueError, "low must be a finite number above 0, got 0"),
        ({"low": 1.0, "high": 0.5}, ValueError, "high must be a finite number above 1, got 0.5"),
        ({"steps": 1}, ValueError, "steps must be at least 2, got 1"),
        ({"sweep": "log"}, ValueError, "sweep must be one of 'exponential', 'linear', got 'log'"),
        ({"smoothing": 1.0}, ValueError, "smoothing must be below 1, got 1.0"),
        ({"diverge": 1.0}, ValueError, "diverge must be a finite number above 1, got 1.0"),
    ],
)
def test_arguments_out_of_range(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        find_lr(*quadratic([]), **options)


def test_what_is_no_loss_and_a_rate_of_zero() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(TypeError, match=r"^step\(\) must return the loss, a number, got NoneType$"):
        find_lr(lambda: None, optimizer)
    net = nn.Linear(1, 1)
    for step in (net, None):
        with pytest.raises(TypeError, match=r"^step must be a function without arguments that trains one step and ret"):
            find_lr(step, optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^optimizer must be a torch.optim.Optimizer, got None$"):
        find_lr(lambda: 1.0, None)  # type: ignore[arg-type]
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match=r"^the first group's learning rate is 0"):
        find_lr(lambda: 1.0, optimizer)


def test_a_test_that_diverges_at_once_is_drawn() -> None:
    found = RangeTest(rates=(0.1, 0.2), losses=(3.0, 90.0), smoothed=(3.0, 46.5), diverged=True)
    assert "too few points" in str(found)
    assert "<svg" in str(found.svg())
    assert "too few points" in str(RangeTest(rates=(0.1,), losses=(3.0,), smoothed=(3.0,), diverged=True))
