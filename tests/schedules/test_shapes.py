"""The shapes against their formulas, worked by hand, and against torch's schedulers where those are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from stepwell.schedules import (
    REX,
    WSD,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    Knee,
    MultiStep,
    Noam,
    OneCycle,
    Polynomial,
    Power,
    Schedule,
    Step,
    Trapezoid,
)

HALF = math.sqrt(0.5)

BY_HAND = [
    # T = 4: what remains is 1, ¾, ½, ¼, 0; squared, and on the way from 1 to 0.2.
    (Polynomial(horizon=4, power=2), [1, 9 / 16, 4 / 16, 1 / 16, 0, 0]),
    (Polynomial(horizon=4, power=2, end=0.2), [1, 0.2 + 0.8 * 9 / 16, 0.4, 0.25, 0.2, 0.2]),
    # r / (½ + ½r) at r = 1, ¾, ½, ¼, 0.
    (REX(horizon=4), [1, 6 / 7, 2 / 3, 2 / 5, 0, 0]),
    # √(τ / (t − W + τ)) with W = 2, τ = 2 (the warm-up) and with τ = 4 given.
    (InverseSqrt(warmup=2), [0, 0.5, 1, math.sqrt(2 / 3), HALF]),
    (InverseSqrt(timescale=4, horizon=12), [1, math.sqrt(4 / 5), math.sqrt(4 / 6)]),
    # min(1, (t / 4)^−½).
    (Power(flat=4, power=0.5), [1, 1, 1, 1, 1, math.sqrt(4 / 5), math.sqrt(4 / 6)]),
    # A hundredth over four steps is 10^−½ at each.
    (Exponential(horizon=4, end=0.01), [1, 10**-0.5, 0.1, 10**-1.5, 0.01, 0.01]),
    (Exponential(gamma=0.5, warmup=1), [0, 1, 0.5, 0.25, 0.125]),
    (Step(every=2, gamma=0.1), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    (MultiStep(at=[1, 4], gamma=0.1), [1, 0.1, 0.1, 0.1, 0.01, 0.01]),
    # n / W up to n = t + 1 = 2, then √(2 / n); and with a width of 4 that times (4 · 2)^−½ = the paper's formula.
    (Noam(warmup=2), [0.5, 1, math.sqrt(2 / 3), HALF]),
    (Noam(warmup=2, width=4), [min(n**-0.5, n * 2**-1.5) / 2 for n in (1, 2, 3, 4)]),
    # Cosine waves of 2 and 4 steps: 1, ½ | 1, (1 + √½)/2, ½, (1 − √½)/2 | …, the second peak halved.
    (CosineRestarts(first=2, growth=2), [1, 0.5, 1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 1]),
    (CosineRestarts(first=2, growth=2, peak_decay=0.5), [1, 0.5, 0.5, (1 + HALF) / 4, 0.25]),
    # The same waves as two cycles that fill 6 steps, then the end.
    (CosineRestarts(cycles=2, growth=2, horizon=6), [1, 0.5, 1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0, 0]),
    # A horizon on a restart ends the cycle before it.
    (CosineRestarts(first=2, horizon=4), [1, 0.5, 1, 0.5, 0, 0, 0]),
    (OneCycle(horizon=6, rise=2, start=0.2, end=0, shape="linear"), [0.2, 0.6, 1, 0.75, 0.5, 0.25, 0, 0]),
    (
        OneCycle(horizon=6, rise=2, start=0.2, end=0, shape="linear", three_phase=True),
        [0.2, 0.6, 1, 0.6, 0.2, 0.1, 0, 0],
    ),
    (Cyclic(up=2, down=1, low=0.5), [0.5, 0.75, 1, 0.5, 0.75, 1, 0.5]),
    (Cyclic(up=2, down=1, low=0.5, mode="triangular2"), [0.5, 0.75, 1, 0.5, 0.625, 0.75, 0.5, 0.5625]),
    (Cyclic(up=2, low=0.5, mode="exp_range", gamma=0.5), [0.5, 0.5 + 0.25 * 0.5, 0.5 + 0.5 * 0.25, 0.5 + 0.25 / 8]),
    (Cyclic(up=2, low=0.5, horizon=3), [0.5, 0.75, 1, 0.75, 0.75]),
    # 1 until T − D = 4, then 1 − √p at p = ¼, ½, ¾, 1.
    (WSD(horizon=8, decay=4), [1, 1, 1, 1, 1, 0.5, 1 - HALF, 1 - math.sqrt(0.75), 0, 0]),
    (WSD(horizon=8, decay=4, shape="cosine"), [1, 1, 1, 1, 1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0, 0]),
    (WSD(horizon=8, warmup=2, decay=4, shape="linear", end=0.2), [0, 0.5, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]),
    (Trapezoid(horizon=8, warmup=2, decay=4), [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
    (Knee(horizon=8, warmup=2, explore=2), [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
    # A whole wave and a half: down, up, down.
    (Cosine(horizon=6, waves=1.5), [1, 0.5, 0, 0.5, 1, 0.5, 0, 0]),
]


@pytest.mark.parametrize(("schedule", "expected"), BY_HAND, ids=[repr(schedule) for schedule, _ in BY_HAND])
def test_by_hand(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-15)


BASE = 0.3


def rates(make: Callable[[torch.optim.Optimizer], Any], steps: int, **options: Any) -> list[tuple[float, float]]:
    """The rate and the momentum that one of torch's schedulers sets at each step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE, momentum=0.9)
    peer = make(optimizer)
    seen = []
    for step in range(steps):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if step + 1 < steps:
            peer.step()
    return seen


PEERS: dict[str, tuple[Schedule, Callable[[Any], Any]]] = {
    "PolynomialLR": (Polynomial(horizon=40, power=1.7), lambda o: lr_scheduler.PolynomialLR(o, 40, power=1.7)),
    "ExponentialLR": (Exponential(gamma=0.97), lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    "StepLR": (Step(every=7, gamma=0.4), lambda o: lr_scheduler.StepLR(o, 7, 0.4)),
    "MultiStepLR": (MultiStep(at=[3, 9, 30], gamma=0.4), lambda o: lr_scheduler.MultiStepLR(o, [3, 9, 30], 0.4)),
    "MultiStepLR, twice": (MultiStep(at=[3, 3], gamma=0.4), lambda o: lr_scheduler.MultiStepLR(o, [3, 3], 0.4)),
    "CosineAnnealingWarmRestarts": (
        CosineRestarts(first=5, growth=3, end=0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 3, eta_min=0.1 * BASE),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_torchs_values(name: str) -> None:
    schedule, make = PEERS[name]
    for step, (rate, _) in enumerate(rates(make, 41)):
        assert BASE * schedule(step) == pytest.approx(rate, rel=1e-12, abs=1e-15)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.sampled_from(["cosine", "linear"]))
def test_torchs_one_cycle_with_its_momentum(rise: int, more: int, three_phase: bool, shape: str) -> None:
    horizon = 2 * rise + more
    ours = OneCycle(horizon=horizon, rise=rise, shape=shape, three_phase=three_phase)
    momentum = ours.opposite(0.85 / 0.95)

    def one_cycle(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=BASE,
            total_steps=horizon + 1,
            pct_start=(rise + 1) / (horizon + 1),
            anneal_strategy="cos" if shape == "cosine" else "linear",
            three_phase=three_phase,
        )

    for step, (rate, beta) in enumerate(rates(one_cycle, horizon + 1)):
        assert BASE * ours(step) == pytest.approx(rate, rel=1e-9)
        assert 0.95 * momentum(step) == pytest.approx(beta, rel=1e-9)
    assert ours(horizon + 1) == ours(horizon)  # where torch's raises


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0.01, 1),
    st.sampled_from(["triangular", "triangular2", "exp_range"]),
)
def test_torchs_cyclic_with_its_momentum(up: int, down: int, low: float, mode: str) -> None:
    ours = Cyclic(up=up, down=down, low=low, mode=mode, gamma=0.98)
    momentum = ours.opposite(0.8 / 0.9)

    def cyclic(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.CyclicLR(optimizer, low * BASE, BASE, up, down, mode=mode, gamma=0.98)  # type: ignore[arg-type]

    for step, (rate, beta) in enumerate(rates(cyclic, 60)):
        assert BASE * ours(step) == pytest.approx(rate, rel=1e-9)
        assert 0.9 * momentum(step) == pytest.approx(beta, rel=1e-9)


@settings(deadline=None)
@given(st.integers(1, 8), st.sampled_from([1, 2, 3]), st.integers(1, 500))
def test_restarts_come_at_the_step_that_they_fall_on(cycles: int, growth: int, unit: int) -> None:
    # Lengths in whole steps: unit · growth^i. Each cycle starts at 1, at exactly that step.
    starts = [unit * sum(growth**i for i in range(cycle)) for cycle in range(cycles + 1)]
    for ours in (
        CosineRestarts(cycles=cycles, growth=growth, horizon=starts[-1]),
        CosineRestarts(first=unit, growth=growth, horizon=starts[-1]),
    ):
        assert [ours(start) for start in starts] == [1.0] * cycles + [0.0]
        assert ours(np.array(starts)).tolist() == [1.0] * cycles + [0.0]
        assert all(ours(start - 1) < 1 for start in starts[1:] if unit > 1)


def test_growth_that_is_no_whole_number_fills_the_horizon() -> None:
    # 1 + 1.5 + 2.25 = 4.75 lengths of the first: 100 steps of 475, then 150, then 225.
    ours = CosineRestarts(cycles=3, growth=1.5, horizon=475)
    assert [ours(step) for step in (0, 50, 100, 175, 250, 475)] == pytest.approx([1, 0.5, 1, 0.5, 1, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineRestarts(), "takes one of first"),
        (lambda: CosineRestarts(first=3, cycles=2), "takes one of first"),
        (lambda: CosineRestarts(cycles=0), "cycles must be at least 1, got 0"),
        (lambda: CosineRestarts(first=2, growth=0.5), "growth must be a finite number of at least 1, got 0.5"),
        (lambda: Exponential(), "takes one of gamma"),
        (lambda: Exponential(gamma=1.5), "gamma must be a finite number above 0 and at most 1, got 1.5"),
        (lambda: Exponential(end=0.0), "end must be a finite number above 0 and at most 1, got 0.0"),
        (lambda: Step(every=0), "every must be at least 1, got 0"),
        (lambda: MultiStep(at=[6, 5]), "at must ascend, got [6, 5]"),
        (lambda: MultiStep(at=[5], warmup=9), "at must not lie in the warm-up of 9 steps, got [5]"),
        (lambda: MultiStep(at=[0.5, 0.4]).resolve(10), "at must ascend"),
        (
            lambda: MultiStep(at=[5, 11, 12]).resolve(10),
            "at must be at most the horizon of 10 steps, got 11, which never",
        ),
        (lambda: Polynomial(power=0), "power must be a finite number above 0, got 0"),
        (
            lambda: WSD(shape="cosin"),
            "shape must be one of 'linear', 'cosine', '1-sqrt', got 'cosin' (did you mean 'cosine'?)",
        ),
        (
            lambda: WSD(warmup=60, decay=50).resolve(100),
            "warmup and decay together must fit in the horizon of 100 steps, got warmup 60 and decay 50",
        ),
        (
            lambda: Knee(warmup=0.6, explore=0.5, horizon=100),
            "warmup and explore together must fit in the horizon of 100",
        ),
        (
            lambda: WSD(warmup=0.6, decay=0.6).resolve(100),
            "warmup and decay together must fit in the horizon of 100 steps, got warmup 0.6 and decay 0.6",
        ),
        (lambda: Trapezoid(warmup=2, decay=0.9).resolve(10), "together must fit in the horizon of 10 steps"),
        (lambda: OneCycle(rise=0.6, three_phase=True).resolve(100), "rise must be at most half the horizon of 100"),
        (lambda: OneCycle(rise=60, horizon=100, three_phase=True), "rise must be at most half the horizon of 100"),
        (lambda: Power(warmup=50, flat=20).resolve(100), "warmup must be at most flat, which is 20 steps, got 50"),
        (lambda: Cyclic(low=-0.1), "low must be a finite number of at least 0, got -0.1"),
    ],
)
def test_values_out_of_range(make: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneCycle(three_phase=1), "three_phase must be True or False, got 1"),
        (lambda: CosineRestarts(cycles=2.0), "cycles must be a whole number (int), got 2.0"),
        (lambda: MultiStep(at=5), "at must be a list of steps or shares, got 5"),
        (lambda: Noam(width="8"), "width must be a number, got '8'"),
    ],
)
def test_values_of_the_wrong_type(make: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert message in str(caught.value)
