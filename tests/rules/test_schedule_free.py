"""Schedule-Free, against the three sequences of the paper, written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSGD
from stepwell.rules.radam import rectification

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


@dataclass
class Sequences:
    """x, y and z after a step, with the sum of the average's weights."""

    x: float
    y: float
    z: float
    weight_sum: float


def recursion(
    start: float,
    gradients: Sequence[float],
    *,
    lr: float,
    beta: float,
    beta2: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> list[Sequences]:
    """arXiv:2405.15682, Alg. 1 with x kept; eqs. 3–5 where there is no `beta2`. Decay is taken at y."""
    x = z = y = start
    v = weight_sum = lr_max = 0.0
    path = []
    for t, g in enumerate(gradients, start=1):
        rate = lr * min(1.0, t / warmup_steps) if warmup_steps else lr
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * g * g
            g = g / (math.sqrt(v / (1 - beta2**t)) + eps)
        z = z - rate * (g + weight_decay * y)
        lr_max = max(lr_max, rate)
        weight = t**r * lr_max**weight_lr_power
        weight_sum += weight
        c = weight / weight_sum
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        path.append(Sequences(x, y, z, weight_sum))
    return path


def test_two_steps_of_sgd(walk: Walk) -> None:
    # β = 0.5, γ = 0.1, all weights equal: z₁ = 1 − 0.2 = 0.8, x₁ = z₁, y₁ = 0.8;
    # z₂ = 0.8 + 0.3 = 1.1, x₂ = (0.8 + 1.1)/2 = 0.95, y₂ = (1.1 + 0.95)/2 = 1.025
    assert walk(ScheduleFreeSGD(lr=0.1, momentum=0.5), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.8, "z": 0.8, "lr_max": 0.1, "weight_sum": 0.01}),
        approx({"weight": 1.025, "z": 1.1, "lr_max": 0.1, "weight_sum": 0.02}),
    ]


def test_two_steps_of_adamw(walk: Walk) -> None:
    # β₂ = 0.75: v₁ = 0.25·4 = 1, v̂₁ = 4, d₁ = 2/2 = 1; v₂ = 0.75·1 + 0.25·1 = 1, v̂₂ = 1/0.4375, d₂ = −1/√v̂₂
    d2 = -math.sqrt(0.4375)
    z2 = 0.9 - 0.1 * d2
    y2 = 0.5 * z2 + 0.5 * (0.9 + z2) / 2
    assert walk(ScheduleFreeAdamW(lr=0.1, betas=(0.5, 0.75), eps=0.0), 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.9, "z": 0.9, "exp_avg_sq": 1.0, "lr_max": 0.1, "weight_sum": 0.01}),
        approx({"weight": y2, "z": z2, "exp_avg_sq": 1.0, "lr_max": 0.1, "weight_sum": 0.02}),
    ]


def test_decay_is_taken_at_the_weights_that_are_trained_on(walk: Walk) -> None:
    # λ = 0.5: z₁ = 1 − 0.1·(2 + 0.5) = 0.75 = y₁; z₂ = 0.75 − 0.1·(−3 + 0.5·0.75) = 1.0125,
    # x₂ = (0.75 + 1.0125)/2, y₂ = (z₂ + x₂)/2; the third decay is of y₂, which is not z₂.
    y2 = (1.0125 + 0.88125) / 2
    path = walk(ScheduleFreeSGD(lr=0.1, momentum=0.5, weight_decay=0.5), 1.0, [2.0, -3.0, 0.0])
    assert [after["z"] for after in path] == approx([0.75, 1.0125, 1.0125 - 0.05 * y2])
    assert [after["weight"] for after in path][:2] == approx([0.75, y2])


def test_warm_up_is_linear_and_ends(walk: Walk) -> None:
    # The fast sequence shows the rate: a gradient of −1 moves it by γ = 0.4·(¼, ½, ¾, 1, 1).
    path = walk(ScheduleFreeSGD(lr=0.4, warmup_steps=4), 0.0, [-1.0] * 5)
    assert [after["z"] for after in path] == approx([0.1, 0.3, 0.6, 1.0, 1.4])
    assert [after["lr_max"] for after in path] == approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_the_average_is_weighted_by_the_squared_rate(walk: Walk) -> None:
    # Warm-up over two steps: rates 0.1 and 0.2, weights 0.01 and 0.04, so c₂ = 0.8.
    path = walk(ScheduleFreeSGD(lr=0.2, momentum=0.5, warmup_steps=2), 0.0, [-1.0, -1.0])
    assert [after["weight_sum"] for after in path] == approx([0.01, 0.05])
    x2 = 0.2 * 0.1 + 0.8 * 0.3
    assert path[1]["weight"] == approx(0.5 * 0.3 + 0.5 * x2)


@ENGINES
def test_the_average_remembers_the_largest_rate(engine: str) -> None:
    # The rate falls from 0.2 to 0.1: the fast sequence follows, the average's weights stay 0.2².
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], ScheduleFreeSGD(lr=0.2, momentum=0.5), engine=engine)
    for rate in (0.2, 0.1):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = -torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert optimizer.state[p]["z"].item() == approx(0.3)
    assert optimizer.state[p]["lr_max"] == approx(0.2)
    assert optimizer.state[p]["weight_sum"] == approx(0.08)
    with optimizer.averaged():
        assert p.item() == approx((0.2 + 0.3) / 2)


SETTINGS: list[Any] = [
    pytest.param({"lr": 0.3, "beta": 0.9}, id="plain"),
    pytest.param({"lr": 0.3, "beta": 0.8, "warmup_steps": 6}, id="warm-up"),
    pytest.param({"lr": 0.3, "beta": 0.8, "warmup_steps": 3, "r": 1.0, "weight_decay": 0.1}, id="r and decay"),
    pytest.param({"lr": 0.3, "beta": 0.95, "warmup_steps": 3, "weight_lr_power": 0.0}, id="equal weights"),
    pytest.param({"lr": 0.1, "beta": 0.9, "beta2": 0.9, "eps": 1e-3}, id="adamw"),
    pytest.param(
        {"lr": 0.1, "beta": 0.9, "beta2": 0.9, "eps": 1e-3, "warmup_steps": 4, "r": 0.5, "weight_decay": 0.1},
        id="adamw with all",
    ),
]
GRADIENTS = [1.0, -0.5, 2.0, 0.3, -1.5, 0.7, 0.0, -0.2, 1.1, -2.0]


@pytest.mark.parametrize("settings", SETTINGS)
@ENGINES
def test_weights_and_average_follow_the_recursion(engine: str, settings: dict[str, Any]) -> None:
    values = dict(settings)
    beta, beta2 = values.pop("beta"), values.pop("beta2", None)
    rule = (
        ScheduleFreeSGD(momentum=beta, **values) if beta2 is None else ScheduleFreeAdamW(betas=(beta, beta2), **values)
    )
    p = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], rule, engine=engine)
    for gradient, expected in zip(GRADIENTS, recursion(0.5, GRADIENTS, **settings), strict=True):
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert p.item() == approx(expected.y, rel=1e-11)
        assert optimizer.state[p]["z"].item() == approx(expected.z, rel=1e-11)
        assert optimizer.state[p]["weight_sum"] == approx(expected.weight_sum, rel=1e-11)
        with optimizer.averaged():
            assert p.item() == approx(expected.x, rel=1e-10)
        assert p.item() == approx(expected.y, rel=1e-11)


@pytest.mark.parametrize("rule", [ScheduleFreeSGD(lr=0.0), ScheduleFreeAdamW(lr=0.0)], ids=["sgd", "adamw"])
def test_a_rate_of_zero_leaves_the_weights(walk: Walk, rule: Any) -> None:
    # The average's weights are then 0/0, which must not become NaN.
    assert [after["weight"] for after in walk(rule, 1.5, [1.0, 2.0])] == [1.5, 1.5]


@ENGINES
@pytest.mark.parametrize("silent", [True, False])
def test_radam_follows_the_recursion(engine: str, silent: bool) -> None:
    # The sequences of the paper, with γₜ = γ·rₜ once the variance is known, and plain or no steps before.
    beta, beta2, eps, lr, weight_decay = 0.8, 0.9, 1e-3, 0.1, 0.1
    x = z = y = 0.5
    v = weight_sum = lr_max = 0.0
    p = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    rule = ScheduleFreeRAdam(
        lr=lr, betas=(beta, beta2), eps=eps, weight_decay=weight_decay, silent_sgd_phase=silent, r=1.0
    )
    optimizer = Optimizer([p], rule, engine=engine)
    for t, g in enumerate(GRADIENTS, start=1):
        v = beta2 * v + (1 - beta2) * g * g
        known, factor = rectification(beta2, t, 4.0)
        assert known == (t > 4)
        rate = lr * (factor if known else 0.0 if silent else 1.0)
        d = g / (math.sqrt(v / (1 - beta2**t)) + eps) if known else g
        z = z - rate * (d + weight_decay * y)
        lr_max = max(lr_max, rate)
        weight = t * lr_max**2
        weight_sum += weight
        c = weight / weight_sum if weight_sum else 0.0
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        assert p.item() == approx(y, rel=1e-11)
        assert optimizer.state[p]["z"].item() == approx(z, rel=1e-11)
        with optimizer.averaged():
            assert p.item() == approx(x, rel=1e-10)


def test_radam_stands_still_until_the_variance_is_known(walk: Walk) -> None:
    # With β₂ = 0.999 that is in step 5.
    path = [after["weight"] for after in walk(ScheduleFreeRAdam(lr=0.1), 1.0, [3.0] * 5)]
    assert path[:4] == [1.0] * 4
    assert path[4] < 1.0


def test_the_slots_and_what_stands_in_them_at_the_start() -> None:
    starts = {slot.name: (slot.start, slot.scalar) for slot in ScheduleFreeAdamW().slot_list()}
    assert starts == {
        "exp_avg_sq": ("zeros", False),
        "z": ("weights", False),
        "lr_max": ("zeros", True),
        "weight_sum": ("zeros", True),
    }
    assert [slot.name for slot in ScheduleFreeSGD().slot_list()] == ["z", "lr_max", "weight_sum"]


def test_a_share_of_the_horizon_is_no_warm_up() -> None:
    with pytest.raises(ValueError, match=r"^warmup_steps must be a whole number at least 0, got 0\.1$"):
        ScheduleFreeAdamW(warmup_steps=0.1)
