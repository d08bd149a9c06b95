"""Muon: matrices whose singular values are known, so that the iteration is arithmetic on a few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from rules.singular_values import JORDAN, diagonal, near, newton_schulz, with_singular_values
from stepwell import Optimizer
from stepwell.algebra.matrices import (
    POLAR_EXPRESS,
    _groups,
    _next_iterate,
    orthogonalized,
    polar_express,
)
from stepwell.rules import AdaMuon, Muon, NorMuon

approx = pytest.approx

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])


ADJUSTMENTS: dict[Any, dict[tuple[int, int], float]] = {
    None: {(2, 2): 1.0, (2, 8): 1.0, (8, 2): 2.0},  # √max(1, rows/cols)
    "original": {(2, 2): 1.0, (2, 8): 1.0, (8, 2): 2.0},
    "match_rms_adamw": {(2, 2): 0.2 * math.sqrt(2), (2, 8): 0.2 * math.sqrt(8), (8, 2): 0.2 * math.sqrt(8)},
}


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", list(ADJUSTMENTS))
@pytest.mark.parametrize("shape", [(2, 2), (2, 8), (8, 2)], ids=["square", "wide", "tall"])
@ENGINES
def test_two_steps(engine: str, shape: tuple[int, int], adjust: Any, nesterov: bool) -> None:
    lr, decay, mu = 0.1, 0.5, 0.8
    adjustment = ADJUSTMENTS[adjust][shape]
    start, first, second = [1.0, -2.0], [3.0, 4.0], [-1.0, 2.0]

    buffer1 = [0.2 * g for g in first]
    update1 = [0.2 * g + mu * b for g, b in zip(first, buffer1, strict=True)] if nesterov else buffer1
    step1 = newton_schulz(update1)
    theta1 = [0.95 * p - lr * adjustment * o for p, o in zip(start, step1, strict=True)]
    buffer2 = [mu * b + 0.2 * g for b, g in zip(buffer1, second, strict=True)]
    update2 = [0.2 * g + mu * b for g, b in zip(second, buffer2, strict=True)] if nesterov else buffer2
    step2 = newton_schulz(update2)
    theta2 = [0.95 * p - lr * adjustment * o for p, o in zip(theta1, step2, strict=True)]

    weights = diagonal(start, *shape).requires_grad_()
    rule = Muon(lr=lr, weight_decay=decay, momentum=mu, nesterov=nesterov, adjust_lr_fn=adjust)
    optimizer = Optimizer([weights], rule, engine=engine)
    for gradient, theta, buffer in ((first, theta1, buffer1), (second, theta2, buffer2)):
        weights.grad = diagonal(gradient, *shape)
        optimizer.step()
        near(weights.detach(), diagonal(theta, *shape))
        near(optimizer.state[weights]["momentum_buffer"], diagonal(buffer, *shape))


def test_the_iteration_by_hand() -> None:
    # 3 and 4 have the norm 5, so the values start at 0.6 and 0.8; one step of (2, −1, 0.5) by hand:
    # 2·0.6 − 0.216 + 0.5·0.07776 = 1.02288 and 2·0.8 − 0.512 + 0.5·0.32768 = 1.25184.
    once = orthogonalized(diagonal([3.0, 4.0], 2, 3), (2.0, -1.0, 0.5), 1)
    near(once, diagonal([1.02288, 1.25184], 2, 3))
    twice = [2 * s - s**3 + 0.5 * s**5 for s in (1.02288, 1.25184)]
    near(orthogonalized(diagonal([3.0, 4.0], 2, 3), (2.0, -1.0, 0.5), 2), diagonal(twice, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)], ids=["square", "wide", "tall"])
def test_all_singular_values_end_near_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    # Before, the largest is fifty times the smallest.
    matrix = with_singular_values(torch.linspace(0.02, 1.0, 24, dtype=torch.float64), *shape)
    result = orthogonalized(matrix.to(dtype))
    assert result.shape == shape
    values = torch.linalg.svdvals(result.double())
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)], ids=["square", "wide", "tall"])
def test_singular_vectors_stay(shape: tuple[int, int]) -> None:
    # In float64 the result has the singular vectors of the matrix, and the polynomial's image of its values.
    values = torch.linspace(1.0, 0.1, 16, dtype=torch.float64)
    matrix = with_singular_values(values, *shape)
    image = torch.tensor(newton_schulz(values.tolist()), dtype=torch.float64)
    near(orthogonalized(matrix), with_singular_values(image, *shape), 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (8, 12), (8, 64), (3, 8, 20), (2, 3, 8, 20)], ids=str)
def test_polynomials_together_give_what_they_give_one_by_one(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for steps in (1, 2, 5):
        one_by_one = x
        for _ in range(steps):
            one_by_one = _next_iterate(one_by_one, [JORDAN])
        near(_next_iterate(x, [JORDAN] * steps), one_by_one, tolerance)


def test_polynomials_go_together_as_long_as_rounding_allows() -> None:
    def sizes(polynomials: list[Any], gain: float) -> list[int]:
        return [len(group) for group in _groups(polynomials, gain)]

    # Gains of 3.4445 each: two make 11.9, three 40.9, five 485. The Polar Express begins with 8.21, 4.07, 3.91, 3.29,
    # 2.28: 8.21·4.07 = 33.4, 4.07·3.91 = 15.9, 3.91·3.29 = 12.9, 3.29·2.28 = 7.5, all together 976.
    assert sizes([JORDAN] * 5, 12.0) == [2, 2, 1]
    assert sizes([JORDAN] * 7, 1000.0) == [5, 2]
    assert sizes(polar_express(5), 12.0) == [1, 1, 1, 2]
    assert sizes(polar_express(5), 16.0) == [1, 2, 2]
    assert sizes(polar_express(5), 1000.0) == [5]
    assert sizes([JORDAN], 1.0) == [1]
    assert sizes([JORDAN] * 3, 0.0) == [1, 1, 1]
    assert sizes([], 12.0) == []


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("polynomials", [lambda steps: [JORDAN] * steps, polar_express], ids=["jordan", "polar"])
@pytest.mark.parametrize("rows", [300, 400])
def test_in_bfloat16_polynomials_together_are_as_near_as_one_by_one(
    polynomials: Callable[[int], list[Any]], steps: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 400 rows are multiplied by a kernel of ours, where there is one for this processor, the others by
    torch."""
    monkeypatch.setattr("stepwell.algebra.tensors._bfloat16_is_fast", lambda _: True)
    values = torch.linspace(1.0, 0.01, rows, dtype=torch.float64)
    matrix = with_singular_values(values, rows, 2 * rows)
    exact = values / values.norm()
    for a, b, c in polynomials(steps):
        exact = a * exact + b * exact**3 + c * exact**5
    expected = with_singular_values(exact, rows, 2 * rows)
    together = orthogonalized(matrix.bfloat16(), polynomials(steps))
    assert together.dtype == torch.bfloat16
    one_by_one = (matrix / values.norm()).bfloat16()
    for polynomial in polynomials(steps):
        one_by_one = _next_iterate(one_by_one, [polynomial])
    error, error_one_by_one = ((found.double() - expected).norm() / expected.norm() for found in (together, one_by_one))
    assert float(error) < 3.0 * float(error_one_by_one) + 0.01
    assert float(error) < 0.12


@pytest.mark.usefixtures("float32_products")
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-3)], ids=str)
@pytest.mark.parametrize("polynomials", [lambda steps: [JORDAN] * steps, polar_express], ids=["jordan", "polar"])
def test_any_number_of_steps_is_that_many_polynomials(
    polynomials: Callable[[int], list[Any]],
    dtype: torch.dtype,
    tolerance: float,
    steps: int,
) -> None:
    # Whichever iteration is taken, also where singular values are 0 or nearly: the Gram matrix rounds these most.
    for least in (0.1, 1e-7, 0.0):
        values = torch.where(torch.arange(24) < 8, torch.linspace(1.0, 0.2, 24, dtype=torch.float64), least)
        image = values / values.norm()
        for a, b, c in polynomials(steps):
            image = a * image + b * image**3 + c * image**5
        for shape in ((24, 40), (90, 24)):
            result = orthogonalized(with_singular_values(values, *shape).to(dtype), polynomials(steps))
            assert result.dtype == dtype
            near(result.double(), with_singular_values(image, *shape), tolerance)


@pytest.mark.parametrize("shape", [(6, 6), (6, 15), (15, 6)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_stack_is_each_matrix_alone(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # Sizes from 1e-3 to 1e3: each matrix is divided by its own norm.
    stack = torch.randn(5, *shape, generator=generator, dtype=torch.float64).to(dtype)
    stack = stack * torch.logspace(-3, 3, 5, dtype=dtype).reshape(5, 1, 1)
    together = orthogonalized(stack)
    # The rounding of the dtype that it was worked in, through five steep polynomials.
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2}[together.dtype]
    for index in range(5):
        near(together[index].double(), orthogonalized(stack[index]).double(), tolerance)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_gradients_scale_makes_no_difference(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    near(orthogonalized(scale * matrix), orthogonalized(matrix), 1e-10)


@ENGINES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_gradient_of_zeros_is_no_step(engine: str, dtype: torch.dtype) -> None:
    weights = torch.ones(3, 4, dtype=dtype, requires_grad=True)
    optimizer = Optimizer([weights], Muon(lr=0.1, weight_decay=0.0), engine=engine)
    weights.grad = torch.zeros(3, 4, dtype=dtype)
    optimizer.step()
    assert torch.equal(weights.detach(), torch.ones(3, 4, dtype=dtype))


@ENGINES
@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)], ids=["square", "wide", "tall"])
def test_match_rms_adamw_steps_by_a_fifth_of_the_rate(engine: str, shape: tuple[int, int]) -> None:
    # UVᵀ of rank r has r singular values of 1, so the RMS √(r/(rows·cols)) = 1/√max(rows, cols); the factor makes 0.2
    # of it. Newton–Schulz ends between 0.7 and 1.2 of that.
    count = min(shape)
    gradient = with_singular_values(torch.linspace(0.5, 1.0, count, dtype=torch.float64), *shape)
    weights = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Muon(lr=0.01, adjust_lr_fn="match_rms_adamw"), engine=engine)
    weights.grad = gradient
    optimizer.step()
    assert 0.7 < float(weights.detach().square().mean().sqrt()) / (0.2 * 0.01) < 1.2


def test_what_newton_schulz_may_be_told() -> None:
    # Coefficients, number of steps and the least norm are the rule's hyper-parameters, and reach the iteration.
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    rule = Muon(lr=1.0, momentum=0.0, ns_coefficients=(2.0, -1.0, 0.5), ns_steps=1, eps=10.0)
    optimizer = Optimizer([weights], rule)
    weights.grad = diagonal([3.0, 4.0], 2, 2)  # its norm 5 is below the least, so it is divided by 10
    optimizer.step()
    expected = [2 * s - s**3 + 0.5 * s**5 for s in (0.3, 0.4)]
    near(weights.detach(), -diagonal(expected, 2, 2))
    assert rule.slots == ("momentum_buffer",)


# Kernels, stacks and fused layers.


def step_of(gradient: Tensor, **values: Any) -> Tensor:
    """Where Muon moves weights of zeros, at a rate of 1 and without momentum."""
    weights = torch.zeros_like(gradient, requires_grad=True)
    weights.grad = gradient.clone()
    Optimizer([weights], Muon(lr=1.0, momentum=0.0, weight_decay=0.0, **values)).step()
    return weights.detach()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_kernel_is_flattened_and_its_rate_is_the_flat_matrixs() -> None:
    # (out, in·height·width) = (8, 2·3·1): √(8/6) stands before the orthogonal factor.
    gradient = random(8, 2, 3, 1)
    near(step_of(gradient).flatten(1), -math.sqrt(8 / 6) * orthogonalized(gradient.flatten(1)))
    flat = 0.2 * math.sqrt(8) * orthogonalized(gradient.flatten(1))
    near(step_of(gradient, adjust_lr_fn="match_rms_adamw").flatten(1), -flat)


def test_three_dimensions_are_experts_or_a_convolution() -> None:
    gradient = random(3, 4, 5)
    near(step_of(gradient), -torch.stack([orthogonalized(expert) for expert in gradient]))
    near(step_of(gradient, conv1d=True).flatten(1), -orthogonalized(gradient.flatten(1)))


@pytest.mark.parametrize("split", [3, (4, 4, 4), (6, 2, 4), (12,)], ids=str)
@pytest.mark.parametrize("kind", ["original", "match_rms_adamw"])
@ENGINES
def test_blocks_of_rows_are_parameters_of_their_own(engine: str, kind: Any, split: Any) -> None:
    sizes = [12 // split] * split if isinstance(split, int) else list(split)
    whole = random(12, 5).requires_grad_()
    parts = [part.clone().requires_grad_() for part in whole.detach().split(sizes)]
    rule = Muon(lr=0.1, adjust_lr_fn=kind)
    together = Optimizer([whole], rule.but(split=split), engine=engine)
    alone = Optimizer(parts, rule, engine=engine)
    for step in (1, 2):
        whole.grad = step * random(12, 5).cos()
        for part, gradient in zip(parts, whole.grad.split(sizes), strict=True):
            part.grad = gradient.clone()
        together.step()
        alone.step()
        near(whole.detach(), torch.cat(parts).detach())


def test_blocks_of_every_expert() -> None:
    gradient = random(2, 6, 4)
    expected = [torch.cat([orthogonalized(block) for block in expert.split(3)]) for expert in gradient]
    near(step_of(gradient, split=2), -torch.stack(expected))


@pytest.mark.parametrize("split", [2, (2, 2)], ids=str)
def test_columns_by_hand(split: Any) -> None:
    """Two diagonal matrices side by side: the iteration works on the numbers of a diagonal alone, so each block ends at
    the recurrence of its own two; as one matrix the four of them would share a norm."""
    gradient = torch.tensor([[3.0, 0.0, 5.0, 0.0], [0.0, 4.0, 0.0, 12.0]], dtype=torch.float64)
    (a, b), (c, d) = newton_schulz([3.0, 4.0]), newton_schulz([5.0, 12.0])
    expected = torch.tensor([[a, 0.0, c, 0.0], [0.0, b, 0.0, d]], dtype=torch.float64)
    near(step_of(gradient, split=split, split_dim=-1), -expected)


@pytest.mark.parametrize("split", [3, (4, 4, 4), (6, 2, 4)], ids=str)
@pytest.mark.parametrize(
    "rule",
    [Muon(lr=0.1), Muon(lr=0.1, adjust_lr_fn="match_rms_adamw"), NorMuon(lr=0.1), AdaMuon(lr=0.1)],
    ids=["original", "match_rms_adamw", "NorMuon", "AdaMuon"],
)
@ENGINES
def test_blocks_of_columns_are_parameters_of_their_own(engine: str, rule: Any, split: Any) -> None:
    sizes = [12 // split] * split if isinstance(split, int) else list(split)
    whole = random(5, 12).requires_grad_()
    parts = [part.clone().requires_grad_() for part in whole.detach().split(sizes, dim=1)]
    together = Optimizer([whole], rule.but(split=split, split_dim=-1), engine=engine)
    alone = Optimizer(parts, rule, engine=engine)
    for step in (1, 2):
        whole.grad = step * random(5, 12).cos()
        for part, gradient in zip(parts, whole.grad.split(sizes, dim=1), strict=True):
            part.grad = gradient.clone()
        together.step()
        alone.step()
        near(whole.detach(), torch.cat(parts, dim=1).detach())


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (5, r"split=5 does not divide the 12 rows of a matrix of shape \(12, 4\)"),
        ((4, 4), r"split=\(4, 4\) adds up to 8 rows, not the 12 of a matrix of shape \(12, 4\)"),
    ],
)
def test_blocks_that_do_not_fit(split: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{reason}, as parameter 'qkv' has \(group 0\)$"):
        Optimizer([("qkv", torch.zeros(12, 4, requires_grad=True))], Muon(split=split))
    columns = reason.replace("rows", "columns").replace(r"\(12, 4\)", r"\(4, 12\)")
    with pytest.raises(ValueError, match=rf"^{columns}, as parameter 'qkv' has \(group 0\)$"):
        Optimizer([("qkv", torch.zeros(4, 12, requires_grad=True))], Muon(split=split, split_dim=-1))


@pytest.mark.parametrize("split", [0, (), (3, 0), (3.5,), "3"], ids=repr)
def test_what_is_no_split(split: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^split"):
        Muon(split=split)


def test_a_split_is_kept_in_a_state_dict() -> None:
    weights = random(6, 4).requires_grad_()
    optimizer = Optimizer([weights], Muon(split=(4, 2)))
    other = Optimizer([weights], Muon())
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["split"] == (4, 2)


# The Polar Express.


def test_the_polar_express_by_hand() -> None:
    # Singular values 0.6 and 0.8 after scaling; the first two polynomials, each of σ/1.01.
    expected = []
    for s in (0.6, 0.8):
        for a, b, c in POLAR_EXPRESS[:2]:
            x = s / 1.01
            s = a * x + b * x**3 + c * x**5
        expected.append(s)
    near(orthogonalized(diagonal([3.0, 4.0], 2, 3), polar_express(2)), diagonal(expected, 2, 3), 1e-10)


def test_the_last_polynomial_of_the_polar_express_is_repeated() -> None:
    assert polar_express(11)[-1] == polar_express(8)[-1] == (1.875, -1.25, 0.375)
    assert len(polar_express(11)) == 11


@pytest.mark.parametrize(("steps", "error"), [(5, 0.2), (6, 0.02), (8, 1e-6)])
@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (30, 12)], ids=["square", "wide", "tall"])
def test_the_polar_express_converges_from_a_thousandth(shape: tuple[int, int], steps: int, error: float) -> None:
    # Jordan's polynomial leaves singular values between 0.7 and 1.2 however often it is taken.
    values = torch.logspace(-2, 0, 12, dtype=torch.float64)
    result = torch.linalg.svdvals(orthogonalized(with_singular_values(values, *shape), polar_express(steps)))
    assert float((result - 1).abs().max()) < error


@ENGINES
def test_muon_on_the_polar_express(engine: str) -> None:
    weights = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], Muon(lr=1.0, momentum=0.0, ns_steps=4, polar_express=True), engine=engine)
    weights.grad = random(3, 5)
    optimizer.step()
    near(weights.detach(), -orthogonalized(random(3, 5), polar_express(4)))


@pytest.mark.parametrize("steps", [5, 9])
def test_small_singular_values_do_not_blow_up(steps: int) -> None:
    # On the Gram matrix in float32 rounding would, after more than five steps.
    values = torch.logspace(-6, 0, 16, dtype=torch.float64)
    result = orthogonalized(with_singular_values(values, 16, 60).float(), steps=steps)
    assert float(torch.linalg.matrix_norm(result.double(), 2)) < 1.3


# Who is routed to it.


def test_create_optimizer_gives_it_hidden_matrices_alone() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 9))
    groups = stepwell.create_optimizer(model, "muon", split=2).param_groups
    assert {group["rule"]: [] for group in groups} == {"Muon": [], "AdamW": []}
    assert [name for group in groups if group["rule"] == "Muon" for name in group["param_names"]] == ["2.weight"]
    assert groups[0]["split"] == 2
