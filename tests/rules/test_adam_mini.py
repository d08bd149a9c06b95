"""Adam-mini: Adam with one learning rate for a whole row, or a whole head."""

from __future__ import annotations

import math

import pytest
import torch

from rules.walking import Walk
from stepwell import Optimizer
from stepwell.rules import AdamMini, AdamW

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])


def test_two_steps_of_a_number_are_adams(walk: Walk) -> None:
    values = {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.5}
    expected = walk(AdamW(**values), 1.0, [2.0, -3.0])
    assert walk(AdamMini(blocks="tensor", **values), 1.0, [2.0, -3.0]) == [approx(after) for after in expected]


@ENGINES
def test_two_steps_of_a_matrix(engine: str) -> None:
    # β = (0.5, 0.75), ε = 0. Mean squares of rows are 12.5 and 2, then 1 and 9.
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], AdamMini(lr=0.1, betas=(0.5, 0.75), eps=0.0), engine=engine)
    theta = [[0.0, 0.0], [0.0, 0.0]]
    g1, g2 = [[3.0, 4.0], [-2.0, 0.0]], [[1.0, -1.0], [3.0, 3.0]]
    moments = [[12.5, 2.0], [(0.1875 * 12.5 + 0.25 * 1) / 0.4375, (0.1875 * 2 + 0.25 * 9) / 0.4375]]
    second = [[(0.25 * a + 0.5 * b) / 0.75 for a, b in zip(*rows, strict=True)] for rows in zip(g1, g2, strict=True)]
    for gradient, average, moment in zip((g1, g2), (g1, second), moments, strict=True):
        theta = [
            [p - 0.1 * m / math.sqrt(v) for p, m in zip(row, means, strict=True)]
            for row, means, v in zip(theta, average, moment, strict=True)
        ]
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert weights.tolist() == [approx(row) for row in theta]


@ENGINES
def test_steps_within_a_row_keep_the_gradients_proportions(engine: str) -> None:
    # What Adam takes away: its first step is the rate, whatever the element.
    weights = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights.grad = gradient.clone()
    Optimizer([weights], AdamMini(lr=0.1), engine=engine).step()
    ratio = weights.detach() / gradient
    torch.testing.assert_close(ratio, ratio[:, :1].expand(3, 5))
    assert float(weights.detach()[1].square().mean().sqrt()) == approx(0.1)


@ENGINES
def test_the_rows_of_a_head_are_one_block(engine: str) -> None:
    # Two heads of two rows: the mean squares are (9 + 16 + 4 + 0)/4 and (1 + 1 + 0 + 0)/4; a first step is η·g/√v.
    weights = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    gradient = [[3.0, 4.0], [-2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]
    weights.grad = torch.tensor(gradient, dtype=torch.float64)
    optimizer = Optimizer([weights], AdamMini(lr=0.1, eps=0.0, heads=2), engine=engine)
    optimizer.step()
    roots = [math.sqrt(7.25)] * 2 + [math.sqrt(0.5)] * 2
    expected = [[-0.1 * g / root for g in row] for row, root in zip(gradient, roots, strict=True)]
    assert weights.tolist() == [approx(row) for row in expected]
    assert optimizer.state[weights]["exp_avg_sq"].shape == (2, 1)


@ENGINES
def test_heads_are_found_in_what_is_not_contiguous_and_in_stacks(engine: str) -> None:
    values = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    heads = [head.clone().requires_grad_() for matrix in values for head in matrix.split(2)]
    stack = values.clone().requires_grad_()
    turned = values[0].T.contiguous().T.requires_grad_()
    assert not turned.is_contiguous()
    for p in (*heads, stack, turned):
        p.grad = 2 * p.detach() + 1
    Optimizer(heads, AdamMini(lr=0.1, blocks="tensor"), engine=engine).step()
    Optimizer([stack, turned], AdamMini(lr=0.1, heads=3), engine=engine).step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in heads]).reshape(2, 6, 5))
    torch.testing.assert_close(turned.detach(), stack.detach()[0])


def test_heads_have_to_divide_the_rows() -> None:
    message = r"heads=3 does not divide the 4 rows of a matrix of shape \(4, 2\), as parameter number 0 has"
    with pytest.raises(ValueError, match=message):
        Optimizer([torch.zeros(4, 2, requires_grad=True)], AdamMini(heads=3))
    with pytest.raises(ValueError, match="heads=3 needs blocks='rows'"):
        AdamMini(heads=3, blocks="tensor")
    Optimizer([torch.zeros(4, requires_grad=True)], AdamMini(heads=3))  # the bias beside them is one block


@pytest.mark.parametrize(
    ("shape", "numbers"), [((64, 96), 64), ((4, 64, 96), 4 * 64), ((8, 3, 3, 3), 1), ((50,), 1), ((), 1)]
)
def test_how_many_second_moments_there_are(shape: tuple[int, ...], numbers: int) -> None:
    weights = torch.zeros(shape, requires_grad=True)
    optimizer = Optimizer([weights], AdamMini())
    weights.grad = torch.ones(shape)
    optimizer.step()
    assert optimizer.state[weights]["exp_avg_sq"].numel() == numbers
