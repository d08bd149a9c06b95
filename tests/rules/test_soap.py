"""SOAP: Adam in a basis that turns with the gradients."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rules.singular_values import diagonal, near
from stepwell import Optimizer
from stepwell.algebra import tensors
from stepwell.rules import SOAP, AdamW

ENGINES = pytest.mark.parametrize("engine", ["reference", "auto"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(rule: Any, gradients: list[Tensor], engine: str = "auto") -> list[Tensor]:
    """Where weights of zeros are after each gradient."""
    weights = torch.zeros_like(gradients[0], requires_grad=True)
    optimizer, path = Optimizer([weights], rule, engine=engine), []
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimizer.step()
        path.append(weights.detach().clone())
    return path


@ENGINES
def test_two_steps_after_the_first(engine: str) -> None:
    # Diagonal gradients have unit vectors as their basis, in which SOAP is Adam, a step behind: with β = (0.5, 0.75),
    # t = 1: m = g/2, v = g²/4, step g/|g| (1 where g > 0); t = 2: m̂ = (0.25·g₁ + 0.5·g₂)/0.75,
    # v̂ = (0.1875·g₁² + 0.25·g₂²)/0.4375.
    gradients = [[3.0, 4.0], [2.0, -1.0], [1.0, 5.0]]
    rule = SOAP(lr=0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.0, precondition_frequency=1)
    rule_without_zeros = rule.but(eps=1e-300)  # 0/0 stands off the diagonal
    path = walk(rule_without_zeros, [diagonal(g, 2, 2) for g in gradients], engine)
    near(path[0], torch.zeros(2, 2, dtype=torch.float64))
    first = [-0.1, 0.1]
    near(path[1], diagonal(first, 2, 2))
    second = []
    for p, g1, g2 in zip(first, gradients[1], gradients[2], strict=True):
        m, v = (0.25 * g1 + 0.5 * g2) / 0.75, (0.1875 * g1**2 + 0.25 * g2**2) / 0.4375
        second.append(p - 0.1 * m / math.sqrt(v))
    near(path[2], diagonal(second, 2, 2))


@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4), (4, 3)], ids=["square", "wide", "tall"])
@ENGINES
def test_turning_the_gradients_turns_the_steps(engine: str, shape: tuple[int, int], frequency: int) -> None:
    # What no elementwise rule can do: with U·G·Vᵀ for each G, all weights are U·θ·Vᵀ.
    left, _ = torch.linalg.qr(random(shape[0], shape[0], seed=1))
    right, _ = torch.linalg.qr(random(shape[1], shape[1], seed=2))
    both = shape[0] == shape[1]  # of a longer side's vectors some have the eigenvalue 0 at first, and could be any

    def turned(x: Tensor) -> Tensor:
        if both:
            return left @ x @ right.T
        return left @ x if shape[0] < shape[1] else x @ right.T

    gradients = [random(*shape, seed=seed) for seed in range(3, 11)]
    rule = SOAP(lr=0.1, betas=(0.8, 0.9), weight_decay=0.0, precondition_frequency=frequency, one_sided=not both)
    path = walk(rule, gradients, engine)
    for p, q in zip(path, walk(rule, [turned(g) for g in gradients], engine), strict=True):
        near(q, turned(p), 1e-6)


@pytest.mark.parametrize("frequency", [1, 3])
@ENGINES
def test_a_kernel_that_is_not_merged_turns_in_each_dimension(engine: str, frequency: int) -> None:
    shape = (3, 4, 2, 3)
    turns = [torch.linalg.qr(random(size, size, seed=size))[0] for size in shape]

    def turned(x: Tensor) -> Tensor:
        return torch.einsum("abcd,ea,fb,gc,hd->efgh", x, *turns)

    gradients = [random(*shape, seed=seed) for seed in range(3, 11)]
    rule = SOAP(lr=0.1, betas=(0.8, 0.9), weight_decay=0.0, precondition_frequency=frequency, merge_dims=False)
    path = walk(rule, gradients, engine)
    for p, q in zip(path, walk(rule, [turned(g) for g in gradients], engine), strict=True):
        near(q, turned(p), 1e-6)


@ENGINES
def test_with_no_side_to_turn_it_is_adam_a_step_behind(engine: str) -> None:
    # But for ε, which SOAP adds before the bias correction.
    gradients = [random(5, 6, seed=seed) for seed in range(6)]
    rule = SOAP(lr=0.1, betas=(0.8, 0.9), eps=1e-30, weight_decay=0.0, max_precond_dim=4)
    adam = AdamW(lr=0.1, betas=(0.8, 0.9), eps=1e-30, weight_decay=0.0)
    for ours, expected in zip(walk(rule, gradients, engine)[1:], walk(adam, gradients[1:]), strict=True):
        near(ours, expected, 1e-10)


@ENGINES
def test_vectors_take_adam(engine: str) -> None:
    gradients = [random(5, seed=seed) for seed in range(4)]
    values: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.3}
    for ours, expected in zip(walk(SOAP(**values), gradients, engine), walk(AdamW(**values), gradients), strict=True):
        near(ours, expected, 1e-6)


@pytest.mark.parametrize(
    ("shape", "flags", "rows", "cols"),
    [
        ((3, 5), {}, 3, 5),
        ((3, 5), {"one_sided": True}, 3, 0),
        ((5, 3), {"one_sided": True}, 0, 3),
        ((4, 4), {"one_sided": True}, 4, 0),
        ((3, 5), {"max_precond_dim": 4}, 3, 0),
        ((1, 5), {}, 0, 5),
        ((3, 2, 2, 2), {}, 3, 8),
        ((3, 2, 2), {"conv1d": True}, 3, 4),
    ],
)
def test_which_sides_are_turned(shape: tuple[int, ...], flags: Any, rows: int, cols: int) -> None:
    weights = random(*shape).requires_grad_()
    optimizer = Optimizer([weights], SOAP(**flags))
    weights.grad = random(*shape)
    optimizer.step()
    for slot, size in (("row_factor", rows), ("row_basis", rows), ("column_factor", cols), ("column_basis", cols)):
        assert optimizer.state[weights][slot].shape == (size, size)


@pytest.mark.parametrize(
    ("shape", "flags", "sizes"),
    [
        ((3, 2, 4, 5), {}, (3, 2, 4, 5)),
        ((3, 2, 1, 1), {}, (3, 2, 0, 0)),
        ((3, 5, 4, 5), {"one_sided": True}, (3, 5, 4, 0)),
        ((3, 2, 4, 5), {"max_precond_dim": 3}, (3, 2, 0, 0)),
        ((3, 2, 4), {"conv1d": True}, (3, 2, 4)),
    ],
)
def test_which_dimensions_of_a_kernel_are_turned(shape: tuple[int, ...], flags: Any, sizes: tuple[int, ...]) -> None:
    weights = random(*shape).requires_grad_()
    optimizer = Optimizer([weights], SOAP(merge_dims=False, **flags))
    weights.grad = random(*shape)
    optimizer.step()
    state = optimizer.state[weights]
    assert state["exp_avg"].shape == shape
    assert [state[f"dim{side}_basis"].shape for side in range(len(shape))] == [(size, size) for size in sizes]
    assert [state[f"dim{side}_factor"].shape for side in range(len(shape))] == [(size, size) for size in sizes]


def test_a_stack_of_matrices_has_two_sides_whatever_is_merged() -> None:
    weights = random(2, 3, 4).requires_grad_()
    optimizer = Optimizer([weights], SOAP(merge_dims=False, dims=3))
    weights.grad = random(2, 3, 4)
    optimizer.step()
    assert optimizer.state[weights]["row_basis"].shape == (2, 3, 3)


def test_the_basis_follows_the_eigenvectors_of_the_average() -> None:
    weights = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([weights], SOAP(precondition_frequency=1, shampoo_beta=0.9))
    scale = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    mixed, _ = torch.linalg.qr(random(4, 4, seed=1))
    for seed in range(60):
        weights.grad = mixed @ (scale[:, None] * random(4, 6, seed=seed))
        optimizer.step()
    state = optimizer.state[weights]
    basis, factor = state["row_basis"], state["row_factor"]
    near(basis.T @ basis, torch.eye(4, dtype=torch.float64))
    inside = basis.T @ factor @ basis
    assert float((inside - torch.diag(inside.diagonal())).norm() / inside.norm()) < 0.02
    assert list(inside.diagonal()) == sorted(inside.diagonal(), reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_bases_stay_in_float32(dtype: torch.dtype) -> None:
    weights = torch.zeros(3, 3, dtype=dtype, requires_grad=True)
    optimizer = Optimizer([weights], SOAP())
    weights.grad = random(3, 3).to(dtype)
    optimizer.step()
    assert optimizer.state[weights]["row_basis"].dtype == torch.float32
    assert optimizer.state[weights]["exp_avg"].dtype == dtype


def test_normalized_steps_have_the_rms_of_the_rate() -> None:
    rule = SOAP(lr=0.1, normalize_grads=True, weight_decay=0.0)
    path = walk(rule, [random(4, 5, seed=seed) for seed in range(4)])
    for before, after in itertools.pairwise(path[1:]):
        assert float((after - before).square().mean().sqrt()) == pytest.approx(0.1)


@pytest.mark.parametrize("flags", [{}, {"one_sided": True}, {"normalize_grads": True}], ids=str)
def test_a_fast_bfloat16_rounds_the_step_and_no_slot(monkeypatch: pytest.MonkeyPatch, flags: Any) -> None:
    found = {}
    for fast in (False, True):
        monkeypatch.setattr(tensors, "_bfloat16_is_fast", lambda _, fast=fast: fast)
        weights = torch.zeros(24, 40, requires_grad=True)
        optimizer = Optimizer([weights], SOAP(lr=1.0, weight_decay=0.0, precondition_frequency=2, **flags))
        for seed in range(5):
            before = weights.detach().clone()
            weights.grad = random(24, 40, seed=seed).float()
            optimizer.step()
        found[fast] = optimizer.state[weights], weights.detach() - before
    (slots, step), (rounded_slots, rounded_step) = found[False], found[True]
    for name, slot in slots.items():
        assert torch.equal(torch.as_tensor(slot), torch.as_tensor(rounded_slots[name])), name
    off = float((rounded_step - step).norm() / step.norm())
    # Four roundings to 8 bits, of the step, two bases and the product between, and a last one: each is off by at most
    # 2⁻⁹ of a number, and by about 2⁻⁹/√3 in the mean.
    assert 2**-11 < off < math.sqrt(5) * 2**-9
