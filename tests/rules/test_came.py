"""CAME: steps are short where the updates stray from their average."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import CAME

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])


def test_two_steps_of_a_number(walk: Walk) -> None:
    # β = (0.5, 0.75, …): v = 0.25·4 = 1, û = 2/1, clipped to 1; m = 0.5. v = 0.75 + 0.25 = 1, û = −1; m = −0.25.
    rule = CAME(lr=0.1, betas=(0.5, 0.75, 0.9), factored=False)
    assert walk(rule, 1.0, [2.0, -1.0]) == [
        approx({"weight": 0.95, "exp_avg": 0.5, "exp_avg_sq": 1.0}),
        approx({"weight": 0.975, "exp_avg": -0.25, "exp_avg_sq": 1.0}),
    ]


@ENGINES
def test_two_steps_of_a_matrix(engine: str) -> None:
    # 1×2, so that rows' means are means of all. Without clipping; all of it in plain arithmetic.
    beta1, beta2, beta3, lr = 0.5, 0.75, 0.9, 0.1
    weights = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    rule = CAME(lr=lr, betas=(beta1, beta2, beta3), clip_threshold=1e9, weight_decay=0.5)
    optimizer = Optimizer([weights], rule, engine=engine)
    theta, m, row, col, res_row, res_col = [1.0, -1.0], [0.0, 0.0], 0.0, [0.0, 0.0], 0.0, [0.0, 0.0]
    for gradient in ([3.0, 1.0], [1.0, -2.0]):
        squares = [g * g for g in gradient]
        row = beta2 * row + (1 - beta2) * sum(squares) / 2
        col = [beta2 * c + (1 - beta2) * x for c, x in zip(col, squares, strict=True)]
        # The one row is the mean of rows: the estimate is the column's.
        step = [g / math.sqrt(c) for g, c in zip(gradient, col, strict=True)]
        m = [beta1 * a + (1 - beta1) * u for a, u in zip(m, step, strict=True)]
        residue = [(u - a) ** 2 for u, a in zip(step, m, strict=True)]
        res_row = beta3 * res_row + (1 - beta3) * sum(residue) / 2
        res_col = [beta3 * c + (1 - beta3) * x for c, x in zip(res_col, residue, strict=True)]
        theta = [0.95 * p - lr * a / math.sqrt(c) for p, a, c in zip(theta, m, res_col, strict=True)]
        weights.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert weights.tolist() == [approx(theta)]
        state = optimizer.state[weights]
        assert state["exp_avg_sq_row"].tolist() == [approx([row])]
        assert state["exp_avg_res_row"].tolist() == [approx([res_row])]
        assert state["exp_avg_res_col"].tolist() == [approx(res_col)]


@ENGINES
def test_a_row_whose_updates_stray_steps_less(engine: str) -> None:
    # Both rows see gradients of size 1; one turns round at every step, the other does not.
    weights = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], CAME(lr=0.01, betas=(0.9, 0.99, 0.99)), engine=engine)
    for step in range(40):
        before = weights.detach().clone()
        turning = 1.0 if step % 2 else -1.0
        weights.grad = torch.tensor([[1.0, 1.1, 0.9], [turning] * 3], dtype=torch.float64)
        optimizer.step()
    steady, straying = (weights.detach() - before).abs().mean(-1).tolist()
    assert steady > 10 * straying


def test_state_is_an_average_and_four_vectors() -> None:
    weights = torch.zeros(64, 96, requires_grad=True)
    optimizer = Optimizer([weights], CAME())
    weights.grad = torch.ones(64, 96)
    optimizer.step()
    slots = [slot for slot in optimizer.state[weights].values() if isinstance(slot, torch.Tensor)]
    assert sum(slot.numel() for slot in slots) == 64 * 96 + 2 * (64 + 96)
