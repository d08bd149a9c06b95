"""Adafactor: a second moment of rank 1, steps relative to the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

import stepwell
from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import Adafactor

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])


def test_two_steps_of_a_number(walk: Walk) -> None:
    # β̂₂ is 0 at t = 1, 1 − 2^−0.8 at t = 2. A number's U is its sign at first (RMS 1, not clipped), α = RMS(θ)·ρ = 2·ρ.
    # t = 1: ρ = min(0.01, 1) = 0.01, θ = 2 − 0.02·1. t = 2: v = 9·(1 − w) + 1·w with w = 2^−0.8, U = −1/√v.
    w = 2.0**-0.8
    v = 9 * (1 - w) + w
    first = 2 - 2 * 0.01
    second = first + first * 0.01 / math.sqrt(v)
    assert walk(Adafactor(factored=False), 2.0, [3.0, -1.0]) == [
        approx({"weight": first, "variance": 9.0}),
        approx({"weight": second, "variance": v}),
    ]


def test_small_weights_step_by_the_second_epsilon(walk: Walk) -> None:
    # RMS(θ) = 0 is below ε₂ = 0.5: α = 0.5·0.01.
    rule = Adafactor(factored=False, eps=(1e-30, 0.5))
    assert [after["weight"] for after in walk(rule, 0.0, [3.0])] == approx([-0.005])


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ({}, [0.01, 0.01]),
        ({"lr": 0.9}, [0.9, 1 / math.sqrt(2)]),
        ({"warmup_init": True}, [1e-6, 2e-6]),
        ({"relative_step": False, "lr": 0.3}, [0.3, 0.3]),
    ],
    ids=["default", "capped by the root", "warm-up", "constant"],
)
def test_the_relative_step(walk: Walk, flags: Any, rates: list[float]) -> None:
    # β̂₂ = 0 throughout (τ = 0): every U is a sign.
    rule = Adafactor(factored=False, scale_parameter=False, decay_rate=0.0, **flags)
    weights = [after["weight"] for after in walk(rule, 0.0, [-2.0, -3.0])]
    assert weights == approx([rates[0], rates[0] + rates[1]])


def test_momentum_is_of_whole_steps(walk: Walk) -> None:
    # τ = 0, constant rate 0.1: steps 0.1 and −0.1; m = 0.05, then 0.025 − 0.05 = −0.025.
    rule = Adafactor(lr=0.1, factored=False, scale_parameter=False, relative_step=False, decay_rate=0.0, beta1=0.5)
    path = walk(rule, 1.0, [2.0, -2.0])
    assert [after["exp_avg"] for after in path] == approx([0.05, -0.025])
    assert [after["weight"] for after in path] == approx([0.95, 0.975])


@pytest.mark.parametrize(("decay", "shrink"), [("inside", 0.02 * 0.5), ("decoupled", 0.01 * 0.5)])
def test_decay_is_scaled_by_the_step_or_by_the_rate(walk: Walk, decay: Any, shrink: float) -> None:
    # α = RMS(θ)·ρ = 2·0.01.
    rule = Adafactor(factored=False, weight_decay=0.5, decay=decay)
    assert [after["weight"] for after in walk(rule, 2.0, [3.0])] == approx([2 * (1 - shrink) - 0.02])


@ENGINES
def test_two_steps_of_a_matrix(engine: str) -> None:
    # Constant rate 0.1, no clipping; R and C are means of squares, and R·C/mean(R) is the estimate.
    rule = Adafactor(lr=0.1, relative_step=False, scale_parameter=False, clip_threshold=1e9)
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], rule, engine=engine)
    # t = 1: squares 1 4 / 9 16: R = (2.5, 12.5), C = (5, 10), mean(R) = 7.5.
    g1 = [[1.0, -2.0], [3.0, 4.0]]
    r1, c1 = [2.5, 12.5], [5.0, 10.0]
    # t = 2: squares 1 1 / 1 1.
    g2 = [[1.0, 1.0], [-1.0, 1.0]]
    w = 2.0**-0.8
    r2, c2 = ([(1 - w) * x + w for x in means] for means in (r1, c1))
    theta = [[0.0, 0.0], [0.0, 0.0]]
    for g, r, c in ((g1, r1, c1), (g2, r2, c2)):
        for i in (0, 1):
            for j in (0, 1):
                theta[i][j] -= 0.1 * g[i][j] / math.sqrt(r[i] * c[j] / (sum(r) / 2))
        weights.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert weights.tolist() == [approx(row) for row in theta]
        assert optimizer.state[weights]["row_var"].flatten().tolist() == approx(r)
        assert optimizer.state[weights]["col_var"].flatten().tolist() == approx(c)


@ENGINES
def test_squares_of_rank_one_lose_nothing(engine: str) -> None:
    # g² = r·cᵀ is what a row and a column can hold: then a matrix steps as its elements would alone.
    rows = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64)
    columns = torch.tensor([[3.0, 1.0, 0.5, 2.0]], dtype=torch.float64)
    whole, factored = (torch.zeros(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for p, is_factored in ((whole, False), (factored, True)):
        p.grad = rows * columns
        Optimizer([p], Adafactor(factored=is_factored), engine=engine).step()
    torch.testing.assert_close(factored, whole)


@ENGINES
def test_the_update_is_clipped_to_its_root_mean_square(engine: str) -> None:
    weights = torch.zeros(6, 7, dtype=torch.float64, requires_grad=True)
    rule = Adafactor(lr=1.0, relative_step=False, scale_parameter=False, clip_threshold=0.25)
    weights.grad = torch.randn(6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Optimizer([weights], rule, engine=engine).step()
    assert float(weights.detach().square().mean().sqrt()) == approx(0.25)


@pytest.mark.parametrize(
    ("shape", "numbers"), [((64, 96), 64 + 96), ((4, 64, 96), 4 * (64 + 96)), ((50,), 50), ((), 1)]
)
def test_state_is_sublinear(shape: tuple[int, ...], numbers: int) -> None:
    weights = torch.zeros(shape, requires_grad=True)
    optimizer = Optimizer([weights], Adafactor())
    weights.grad = torch.ones(shape)
    optimizer.step()
    slots = [slot for slot in optimizer.state[weights].values() if isinstance(slot, torch.Tensor)]
    assert sum(slot.numel() for slot in slots) == numbers


@ENGINES
def test_gradients_of_zeros_in_float32(engine: str) -> None:
    # R and C are then near ε₁ = 1e-30, and their product below what float32 holds.
    weights = torch.ones(3, 4, requires_grad=True)
    weights.grad = torch.zeros(3, 4)
    Optimizer([weights], Adafactor(), engine=engine).step()
    assert torch.equal(weights.detach(), torch.ones(3, 4))


def test_a_rate_of_none_is_the_cap_of_the_relative_step() -> None:
    weights = torch.zeros(2, 2, requires_grad=True)
    by_position = stepwell.Adafactor([weights], None, (1e-30, 1e-3), 1.0, -0.8, None, 0.0, True, True, False)
    assert by_position.defaults == stepwell.Adafactor([weights]).defaults
    assert by_position.param_groups[0]["lr"] == 0.01
    with pytest.raises(TypeError, match="lr must be a number at least 0, got None"):
        Adafactor(lr=None, relative_step=False)


def test_a_warm_up_is_of_the_relative_step() -> None:
    with pytest.raises(ValueError, match=r"^warmup_init=True needs relative_step=True$"):
        Adafactor(warmup_init=True, relative_step=False)


@pytest.mark.parametrize("eps", [(None, 1e-3), (1e-6, 1e-2)])
def test_torchs_state_loads_and_ours_into_torchs(eps: Any) -> None:
    def give_gradients(parameters: list[torch.Tensor], step: int) -> None:
        for index, p in enumerate(parameters):
            generator = torch.Generator().manual_seed(10 * step + index)
            p.grad = torch.randn(p.shape, generator=generator)

    expected = [torch.ones(3, 4, requires_grad=True), torch.ones(5, requires_grad=True)]
    theirs = torch.optim.Adafactor(expected, lr=0.02, eps=eps, d=1.5, beta2_decay=-0.6, weight_decay=0.1)
    for step in (1, 2):
        give_gradients(expected, step)
        theirs.step()
    mine = [p.detach().clone().requires_grad_() for p in expected]
    ours = Optimizer(mine, Adafactor())
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["clip_threshold"] == 1.5
    back = [p.detach().clone().requires_grad_() for p in expected]
    again = torch.optim.Adafactor(back)
    again.load_state_dict(copy.deepcopy(ours.state_dict()))  # torch goes on with the tensors that it is given
    assert {name: again.param_groups[0][name] for name in ("d", "beta2_decay")} == {"d": 1.5, "beta2_decay": -0.6}
    assert "d" not in ours.param_groups[0]
    for step in (3, 4):
        for parameters, optimizer in ((expected, theirs), (mine, ours), (back, again)):
            give_gradients(parameters, step)
            optimizer.step()
    for p, q, r in zip(expected, mine, back, strict=True):
        torch.testing.assert_close(q, p)
        torch.testing.assert_close(r, p)
    resumed = Optimizer(mine, Adafactor())
    resumed.load_state_dict(ours.state_dict())
    assert "beta2_decay" not in resumed.param_groups[0]
