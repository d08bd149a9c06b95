"""Equality with transformers' schedules at every step up to the horizon, for random arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.integrations import huggingface

pytestmark = pytest.mark.peers

transformers = pytest.importorskip("transformers")

NAMES = [name for name in huggingface.__all__ if name.startswith("get_")]
# Ours leaves out what the arguments of torch's plateau cannot say, and names what theirs takes as **kwargs.
SAME_SIGNATURE = [name for name in NAMES if name not in ("get_reduce_on_plateau_schedule", "get_greedy_schedule")]


def theirs(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(transformers.optimization, name)
    return found


def sgd(rate: float = 0.3) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


@pytest.mark.parametrize("name", SAME_SIGNATURE)
def test_signatures(name: str) -> None:
    ours = inspect.signature(getattr(huggingface, name)).parameters
    peer = inspect.signature(theirs(name)).parameters
    assert list(ours) == list(peer)
    assert [one.default for one in ours.values()] == [one.default for one in peer.values()]


def test_the_names_of_schedules() -> None:
    assert {one.name: one.value for one in huggingface.SchedulerType} == {
        one.name: one.value for one in transformers.SchedulerType
    }


def test_transformers_own_members_are_names() -> None:
    found = huggingface.get_scheduler(transformers.SchedulerType.LINEAR, sgd(), 1, 8)
    assert found.schedules == huggingface.get_scheduler("linear", sgd(), 1, 8).schedules


def compare(
    name: str, horizon: int, *arguments: Any, skip: Callable[[int], bool] = lambda _: False, **options: Any
) -> None:
    """Every step up to the horizon; steps that `skip` names are transformers' defects."""
    ours = getattr(huggingface, name)(sgd(), *arguments, **options)
    peer = theirs(name)(sgd(), *arguments, **options)
    mine, other = ours.lr_lambdas[0], peer.lr_lambdas[0]
    for step in range(horizon + 1):
        if not skip(step):
            assert mine(step) == pytest.approx(other(step), rel=1e-9, abs=1e-12), f"step {step}"


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int]:
    """A warm-up, and a horizon beyond it."""
    horizon = draw(st.integers(1, 300))
    return draw(st.integers(0, horizon - 1)), horizon


CYCLES = st.floats(0.1, 4)
RATES = st.floats(0, 1)


@settings(deadline=None)
@given(lengths())
def test_constant_linear_and_inverse_sqrt(given_lengths: tuple[int, int]) -> None:
    warmup, horizon = given_lengths
    compare("get_constant_schedule", horizon)
    compare("get_constant_schedule_with_warmup", horizon, warmup)
    compare("get_linear_schedule_with_warmup", horizon + 10, warmup, horizon)
    compare("get_inverse_sqrt_schedule", horizon + 10, warmup)
    compare("get_inverse_sqrt_schedule", horizon + 10, warmup, timescale=horizon)


@settings(deadline=None)
@given(lengths(), CYCLES)
def test_cosine(given_lengths: tuple[int, int], cycles: float) -> None:
    compare("get_cosine_schedule_with_warmup", given_lengths[1], *given_lengths)
    compare("get_cosine_schedule_with_warmup", given_lengths[1], *given_lengths, num_cycles=cycles)


@settings(deadline=None)
@given(lengths(), st.integers(1, 6))
def test_hard_restarts(given_lengths: tuple[int, int], cycles: int) -> None:
    warmup, horizon = given_lengths
    # Where a restart falls on a step, transformers' quotient can round to just before it.
    compare(
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        horizon,
        warmup,
        horizon,
        cycles,
        skip=lambda step: warmup < step < horizon and (step - warmup) * cycles % (horizon - warmup) == 0,
    )


@settings(deadline=None)
@given(lengths(), st.floats(0, 0.29), st.floats(0.2, 4))
def test_polynomial(given_lengths: tuple[int, int], lr_end: float, power: float) -> None:
    compare("get_polynomial_decay_schedule_with_warmup", given_lengths[1] + 10, *given_lengths, lr_end, power)


@settings(deadline=None)
@given(lengths(), CYCLES, RATES, st.booleans())
def test_cosine_to_a_least_rate(given_lengths: tuple[int, int], cycles: float, rate: float, absolute: bool) -> None:
    least = {"min_lr": 0.3 * rate} if absolute else {"min_lr_rate": rate}
    name = "get_cosine_with_min_lr_schedule_with_warmup"
    compare(name, given_lengths[1], *given_lengths, num_cycles=cycles, **least)


@settings(deadline=None)
@given(lengths(), CYCLES, RATES, st.none() | RATES)
def test_cosine_with_a_warmup_from_a_rate(
    given_lengths: tuple[int, int], cycles: float, rate: float, start: float | None
) -> None:
    warmup, horizon = given_lengths
    # Its cosine is at its foot one step before the horizon, and climbs again at it.
    name = "get_cosine_with_min_lr_schedule_with_warmup_lr_rate"
    compare(name, horizon - 1, warmup, horizon, num_cycles=cycles, min_lr_rate=rate, warmup_lr_rate=start)


@settings(deadline=None)
@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.sampled_from(["linear", "cosine", "1-sqrt"]),
    st.sampled_from(["linear", "cosine", "1-sqrt"]),
    RATES,
    st.just(0.5) | CYCLES,
    st.booleans(),
)
def test_wsd(
    warmup: int, stable: int, decay: int, rise: str, fall: str, ratio: float, cycles: float, by_total: bool
) -> None:
    total = warmup + stable + decay
    if total == 0:
        return
    length = {"num_training_steps": total} if by_total else {"num_stable_steps": stable}
    compare(
        "get_wsd_schedule",
        total + 10,
        warmup,
        decay,
        warmup_type=rise,
        decay_type=fall,
        min_lr_ratio=ratio,
        num_cycles=cycles,
        **length,
    )


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=120),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["min", "max"]),
)
def test_greedy(metrics: list[float], patience: int, cooldown: int, warmup: int, smooth: bool, mode: str) -> None:
    options = {
        "factor": 0.7,
        "patience": patience,
        "cooldown": cooldown,
        "warmup": warmup,
        "smooth": smooth,
        "window_size": 4,
        "mode": mode,
        "threshold": 1e-3,
        "min_lr": 0.05,
        "reset_start": 3,
    }
    ours = huggingface.get_greedy_schedule(sgd(), **options)
    peer = theirs("get_greedy_schedule")(sgd(), **options)
    for metric in metrics:
        ours.step(metric)
        peer.step(metric)
        assert ours.get_last_lr() == pytest.approx(peer.get_last_lr(), rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"warmup_init": True}, {"scale_parameter": False}])
def test_adafactors_schedule(options: dict[str, bool]) -> None:
    def rates(adafactor: Any, schedule: Any) -> list[float]:
        parameter = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
        optimizer = adafactor([parameter], **options)
        scheduler = schedule(optimizer, 0.25)
        seen = [scheduler.get_lr()[0], scheduler.get_last_lr()[0], optimizer.param_groups[0]["lr"]]
        for _ in range(4):
            parameter.grad = torch.tensor([0.5, 1.0, -0.25])
            optimizer.step()
            scheduler.step()
            seen += [float(scheduler.get_last_lr()[0]), float(optimizer.param_groups[0]["lr"])]  # its tensors change
        return seen

    theirs = rates(transformers.Adafactor, transformers.optimization.get_adafactor_schedule)
    assert rates(transformers.Adafactor, huggingface.get_adafactor_schedule) == theirs
    assert rates(huggingface.Adafactor, huggingface.get_adafactor_schedule) == pytest.approx(theirs, rel=1e-6)


# The defects: what transformers does, and ours does not.


def test_transformers_climbs_again_past_the_end() -> None:
    peer, ours = (
        make(sgd(), 0, 10).lr_lambdas[0]
        for make in (theirs("get_cosine_schedule_with_warmup"), huggingface.get_cosine_schedule_with_warmup)
    )
    assert peer(15) == pytest.approx(0.5)
    assert ours(15) == 0.0


def test_transformers_drops_arguments_of_constant_schedules() -> None:
    assert theirs("get_scheduler")("constant", sgd(), scheduler_specific_kwargs={"no_such": 1})
    with pytest.raises(TypeError, match="no_such"):
        huggingface.get_scheduler("constant", sgd(), scheduler_specific_kwargs={"no_such": 1})


def test_transformers_misses_restarts_by_rounding() -> None:
    peer = theirs("get_cosine_with_hard_restarts_schedule_with_warmup")(sgd(), 0, 49, 49).lr_lambdas[0]
    assert math.isclose(peer(1), 0.0, abs_tol=1e-9)
