"""AdamW and Adafactor of transformers 4.34: signatures, values worked out by hand, and the rates that are told."""

from __future__ import annotations

import inspect
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell.integrations import huggingface
from stepwell.integrations.huggingface import (
    Adafactor,
    AdafactorSchedule,
    AdamW,
    get_adafactor_schedule,
    get_linear_schedule_with_warmup,
)

GRADIENTS = [[0.5, -1.0, 0.25], [-0.25, -0.5, 1.0], [0.125, 2.0, 0.5]]


def weight(*values: float) -> Tensor:
    return torch.tensor(values or (1.0, -2.0, 0.5), dtype=torch.float64, requires_grad=True)


def walk(optimizer: torch.optim.Optimizer, parameter: Tensor, gradients: list[list[float]] = GRADIENTS) -> list[float]:
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
        optimizer.step()
    found: list[float] = parameter.tolist()
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            AdamW,
            {
                "lr": 1e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-6,
                "weight_decay": 0.0,
                "correct_bias": True,
                "no_deprecation_warning": False,
            },
        ),
        (
            Adafactor,
            {
                "lr": None,
                "eps": (1e-30, 1e-3),
                "clip_threshold": 1.0,
                "decay_rate": -0.8,
                "beta1": None,
                "weight_decay": 0.0,
                "scale_parameter": True,
                "relative_step": True,
                "warmup_init": False,
            },
        ),
    ],
)
def test_signatures_are_those_of_4_34(kind: type[torch.optim.Optimizer], expected: dict[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters
    assert list(parameters) == ["params", *expected]
    assert {name: one.default for name, one in parameters.items() if name != "params"} == expected
    made = kind([weight()], *expected.values())
    assert isinstance(made, stepwell.Optimizer)
    kept = {name: value for name, value in expected.items() if name != "no_deprecation_warning"}
    assert {name: made.param_groups[0][name] for name in kept} == kept


@pytest.mark.parametrize("correct_bias", [True, False])
def test_adamw_by_hand(correct_bias: bool) -> None:
    # m = 0.8·m + 0.2·g, v = 0.9·v + 0.1·g², rate = 0.1·√(1 − 0.9ᵗ)/(1 − 0.8ᵗ) or 0.1, then the step, then 1 − 0.1·0.5.
    expected = []
    for theta, gradients in zip((1.0, -2.0, 0.5), zip(*GRADIENTS, strict=True), strict=True):
        m = v = 0.0
        for t, g in enumerate(gradients, start=1):
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            rate = 0.1 * math.sqrt(1 - 0.9**t) / (1 - 0.8**t) if correct_bias else 0.1
            theta -= rate * m / (math.sqrt(v) + 0.01)
            theta *= 1 - 0.1 * 0.5
        expected.append(theta)
    p = weight()
    optimizer = AdamW([p], 0.1, (0.8, 0.9), 0.01, 0.5, correct_bias=correct_bias, no_deprecation_warning=True)
    assert walk(optimizer, p) == pytest.approx(expected, rel=1e-12)


def test_adamw_first_step_by_hand() -> None:
    # Corrected: m̂/√v̂ is the sign of g, so 1 − 0.1 = 0.9, and the decay that follows gives 0.9·(1 − 0.1·0.5) = 0.855.
    # Uncorrected: 0.1·0.1·g / √(0.001·g²) = 0.1·√10 away; AdamW's paper and torch would decay first.
    corrected, uncorrected = weight(1.0), weight(1.0)
    walk(AdamW([corrected], 0.1, eps=0.0, weight_decay=0.5), corrected, [[0.5]])
    walk(AdamW([uncorrected], 0.1, eps=0.0, correct_bias=False), uncorrected, [[0.5]])
    assert corrected.item() == pytest.approx(0.855, rel=1e-12)
    assert uncorrected.item() == pytest.approx(1 - 0.1 * math.sqrt(10), rel=1e-12)


def test_adamw_and_torchs() -> None:
    # Without ε the two differ by the place of the decay: θ ← c·(θ − s) here, θ ← c·θ − s there, with c = 1 − η·λ. For
    # θ/c the former is the latter, so that with the same gradients ours from θ is c times torch's from θ/c.
    shrink = 1 - 0.1 * 0.5
    ours, theirs = weight(), weight(*(x / shrink for x in (1.0, -2.0, 0.5)))
    walk(AdamW([ours], 0.1, (0.8, 0.9), 0.0, 0.5), ours)
    walk(torch.optim.AdamW([theirs], 0.1, (0.8, 0.9), 0.0, 0.5), theirs)
    torch.testing.assert_close(ours.detach(), shrink * theirs.detach(), rtol=1e-12, atol=0)
    plain, peer = weight(), weight()
    walk(AdamW([plain], 0.1, eps=1e-12), plain)
    walk(torch.optim.AdamW([peer], 0.1, eps=1e-12, weight_decay=0.0), peer)
    torch.testing.assert_close(plain.detach(), peer.detach(), rtol=1e-10, atol=0)


def test_adamw_loads_a_state_that_transformers_saved() -> None:
    # Its groups say nothing of a rule, and its state is step, exp_avg and exp_avg_sq.
    moment, square = torch.tensor([0.1]), torch.tensor([0.04])
    group = {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.0, "weight_decay": 0.0, "correct_bias": False, "params": [0]}
    p = weight(1.0)
    optimizer = AdamW([p])
    state = {"step": 7, "exp_avg": moment.double(), "exp_avg_sq": square.double()}
    optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
    walk(optimizer, p, [[0.3]])
    assert optimizer.state[p]["step"] == 8
    # m = ½(0.1 + 0.3) = 0.2, v = ½(0.04 + 0.09) = 0.065
    assert p.item() == pytest.approx(1 - 0.1 * 0.2 / math.sqrt(0.065), rel=1e-6)


def test_adafactor_by_hand() -> None:
    # A vector: v is g² at the first step (β̂₂ = 0), so u = sign(g), whose root mean square is the threshold. At step 2
    # β̂₂ = 1 − 2^−0.8. RMS(θ) scales the relative step, which is 0.01 up to step 10,000.
    theta, gradients = (3.0, -4.0), ((0.5, -1.0), (-0.25, -0.5))

    def rms(values: list[float]) -> float:
        return math.sqrt(sum(x * x for x in values) / len(values))

    first = rms([3.0, -4.0])
    once = [x - 0.01 * first * math.copysign(1, g) for x, g in zip(theta, gradients[0], strict=True)]
    memory = 1 - 2**-0.8
    moments = [memory * a * a + (1 - memory) * b * b for a, b in zip(*gradients, strict=True)]
    update = [g / math.sqrt(v) for g, v in zip(gradients[1], moments, strict=True)]
    update = [u / max(1.0, rms(update)) for u in update]
    twice = [x - 0.01 * rms(once) * u for x, u in zip(once, update, strict=True)]
    p = weight(*theta)
    optimizer = Adafactor([p])
    scheduler = AdafactorSchedule(optimizer, initial_lr=0.25)
    assert scheduler.get_lr() == scheduler.get_last_lr() == [0.25]
    assert walk(optimizer, p, [list(gradients[0])]) == pytest.approx(once, rel=1e-12)
    assert scheduler.get_lr() == [pytest.approx(0.01 * first, rel=1e-12)]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == pytest.approx(0.01 * first, rel=1e-12)
    assert walk(optimizer, p, [list(gradients[1])]) == pytest.approx(twice, rel=1e-12)  # what is told is not a cap
    assert scheduler.get_lr() == [pytest.approx(0.01 * rms(once), rel=1e-12)]


def test_the_rate_of_a_relative_step() -> None:
    groups = [
        {"params": [weight()]},
        {"params": [weight()], "warmup_init": True},
        {"params": [weight()], "scale_parameter": False},
    ]
    optimizer = Adafactor(groups, scale_parameter=False)
    scheduler = get_adafactor_schedule(optimizer)
    assert scheduler.get_lr() == [0.0, 0.0, 0.0]
    for group in groups:
        group["params"][0].grad = torch.ones(3, dtype=torch.float64)
    for _ in range(3):
        optimizer.step()
    assert scheduler.get_lr() == [0.01, 3e-6, 0.01]
    for p in optimizer.state:
        optimizer.state[p]["step"] = 40_000
    assert scheduler.get_lr() == [0.005, 0.005, 0.005]  # 1/√40,000; 10⁻⁶·40,000 is more
    assert "RMS" not in optimizer.state[groups[0]["params"][0]]


def test_the_schedule_pickles_with_its_optimizer() -> None:
    p = weight()
    optimizer = Adafactor([p])
    scheduler = get_adafactor_schedule(optimizer)
    walk(optimizer, p)
    scheduler.step()
    twin = pickle.loads(pickle.dumps(scheduler))
    (q,) = twin.optimizer.param_groups[0]["params"]
    assert walk(optimizer, p) == walk(twin.optimizer, q)
    assert twin.get_lr() == scheduler.get_lr()


def test_adafactor_with_a_rate_is_scheduled_as_any_other() -> None:
    p, q = weight(1.0), weight(1.0)
    ours = Adafactor([p], lr=0.1, relative_step=False, scale_parameter=False)
    plain = stepwell.Adafactor([q], lr=0.1, relative_step=False, scale_parameter=False)
    schedulers = [get_linear_schedule_with_warmup(optimizer, 0, 4) for optimizer in (ours, plain)]
    for _ in range(3):
        for optimizer, parameter, scheduler in zip((ours, plain), (p, q), schedulers, strict=True):
            walk(optimizer, parameter, [[0.3]])
            scheduler.step()
    assert p.item() == q.item()
    assert ours.param_groups[0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_they_pickle_and_resume(kind: type[torch.optim.Optimizer]) -> None:
    p = weight()
    optimizer = kind([p])
    walk(optimizer, p)
    twin = pickle.loads(pickle.dumps(optimizer))
    (q,) = twin.param_groups[0]["params"]
    third = p.detach().clone().requires_grad_()
    resumed = kind([third])
    resumed.load_state_dict(optimizer.state_dict())
    assert walk(optimizer, p) == walk(twin, q) == walk(resumed, third)
    assert type(twin) is kind


def test_a_state_of_another_optimizer_is_refused() -> None:
    p = weight()
    adam = torch.optim.Adam([p])
    walk(adam, p)
    for state in (adam.state_dict(), {"state": None, "param_groups": []}):
        with pytest.raises(
            (TypeError, ValueError), match=r"^unknown hyper-parameter 'betas' for|^this is no optimizer's"
        ):
            Adafactor([weight()]).load_state_dict(state)


def test_sixteen_bits_keep_the_scale_in_thirty_two() -> None:
    p = torch.tensor([3.0, -4.0], dtype=torch.bfloat16, requires_grad=True)
    optimizer = Adafactor([p])
    walk(optimizer, p, [[0.5, 1.0]])
    assert optimizer.state[p]["RMS"].dtype == torch.float32
    assert optimizer.state[p]["RMS"].item() == pytest.approx(math.sqrt(12.5), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AdamW([weight()], lr=-1.0), ValueError, "lr must be at least 0, got -1.0"),
        (lambda: AdamW([weight()], betas=(0.9, 1.0)), ValueError, "betas[1] must be in [0, 1), got 1.0"),
        (lambda: AdamW([weight()], eps=-1e-6), ValueError, "eps must be at least 0, got -1e-06"),
        (
            lambda: AdamW([weight()], no_deprecation_warning=1),  # type: ignore[arg-type]
            TypeError,
            "no_deprecation_warning must be True or False, got 1",
        ),
        (
            lambda: Adafactor([weight()], lr=1e-3),
            ValueError,
            "lr must be None with relative_step=True, which finds the rate itself, got 0.001; write ",
        ),
        (
            lambda: Adafactor([{"params": [weight()], "lr": 1e-3}]),
            ValueError,
            "lr must be None with relative_step=True, which finds the rate itself, got 0.001; write ",
        ),
        (
            lambda: Adafactor([weight()], relative_step=False),
            ValueError,
            "relative_step=False needs lr, the learning rate, got None",
        ),
        (
            lambda: Adafactor([weight()], lr=1e-3, relative_step=False, warmup_init=True),
            ValueError,
            "warmup_init=True needs relative_step=True",
        ),
        (lambda: Adafactor([weight()], decay_rate=0.8), ValueError, "decay_rate must be "),
        (lambda: Adafactor([weight()], eps=1e-30), ValueError, "eps must be 2 numbers, got 1e-30"),  # type: ignore[arg-type]
        (
            lambda: AdafactorSchedule(Adafactor([weight()], lr=1e-3, relative_step=False)),
            ValueError,
            "AdafactorSchedule needs relative_step=True, got False in group 0; schedule its rate with get_scheduler",
        ),
    ],
)
def test_errors(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make()


def test_a_group_may_have_a_rate_without_relative_steps() -> None:
    optimizer = Adafactor([{"params": [weight()]}, {"params": [weight()], "lr": 0.1, "relative_step": False}])
    assert [group["lr"] for group in optimizer.param_groups] == [None, 0.1]


def test_a_schedule_finds_no_number_where_the_rate_is_relative() -> None:
    with pytest.raises(TypeError, match=r"^no group of the optimizer has a number 'lr'"):
        huggingface.get_constant_schedule(Adafactor([weight()]))
