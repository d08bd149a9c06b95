"""SAM: the gradient is taken at the sharpest point nearby, and the weights come back to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict

from rules.walking import quartic
from stepwell import Optimizer, sam
from stepwell.rules import SGD, AdamW

approx = pytest.approx
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


@ENGINES
def test_two_steps_of_sam(engine: str) -> None:
    # g = θ³, and for one number the sharpest point is ρ further up: θ₁ = 1 − 0.1·1.5³ = 0.6625,
    # θ₂ = 0.6625 − 0.1·1.1625³.
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], sam(SGD(lr=0.1), rho=0.5), engine=engine)
    losses = [optimizer.step(quartic([p], optimizer)).item() for _ in range(2)]
    assert p.item() == approx(0.6625 - 0.1 * 1.1625**3)
    assert losses == approx([0.25, 0.6625**4 / 4])


def test_the_gradient_is_taken_at_the_normalised_distance_over_all_parameters() -> None:
    p, q = torch.tensor([3.0 ** (1 / 3)]).double(), torch.tensor([4.0 ** (1 / 3), 0.0]).double()
    for each_one in (p, q):
        each_one.requires_grad_()
    before = [p.detach().clone(), q.detach().clone()]
    optimizer = Optimizer([{"params": [p]}, {"params": [q], "lr": 0.0}], sam(SGD(lr=0.0), rho=0.5))
    seen: list[Any] = []
    optimizer.step(quartic([p, q], optimizer, seen))
    assert torch.equal(p.detach(), before[0])
    assert torch.equal(q.detach(), before[1])  # restored to the bit
    # g = (3), (4, 0), of length 5: ε = 0.5·(0.6), 0.5·(0.8, 0).
    assert len(seen) == 2
    assert (seen[1][0] - before[0]).tolist() == approx([0.3])
    assert (seen[1][1] - before[1]).tolist() == approx([0.4, 0.0])


def test_only_groups_with_sam_go_to_the_sharpest_point() -> None:
    p, q = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Optimizer([{"params": [p], "rule": sam(SGD(lr=0.1), rho=0.5)}, {"params": [q]}], SGD(lr=0.1))
    optimizer.step(quartic([p, q], optimizer))
    assert p.item() == approx(0.6625)
    assert q.item() == approx(0.9)


def test_up_the_objective_the_worst_point_is_below() -> None:
    # Up θ⁴/4 from 1: the worst point nearby is 0.5, and θ₁ = 1 + 0.1·0.5³.
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], sam(SGD(lr=0.1, maximize=True), rho=0.5))
    optimizer.step(quartic([p], optimizer))
    assert p.item() == approx(1.0125)


def test_a_radius_of_zero_is_the_rule() -> None:
    p, q = (torch.linspace(-1, 2, 4).double().requires_grad_() for _ in range(2))
    with_sam, without = Optimizer([p], sam(AdamW(lr=0.1), rho=0.0)), Optimizer([q], AdamW(lr=0.1))
    for _ in range(3):
        with_sam.step(quartic([p], with_sam))
        without.step(quartic([q], without))
    assert torch.equal(p.detach(), q.detach())


def test_clipping_is_of_the_gradient_at_the_sharpest_point() -> None:
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], sam(SGD(lr=0.1), rho=0.5), clip_norm=0.5)
    optimizer.step(quartic([p], optimizer))
    assert optimizer.gradient_norm == approx(1.5**3)
    assert p.item() == approx(0.95, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", ["both points", "the second point"])
@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_gradients_that_are_not_finite(policy: Any, at: str, bad: float) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = Optimizer([p], sam(SGD(lr=0.1)), on_nonfinite=policy)
    calls = []

    def closure() -> float:
        calls.append(p.detach().clone())
        p.grad = torch.ones(3)
        if at == "both points" or len(calls) == 2:
            p.grad[1] = bad
        return 0.0

    if policy == "raise":
        with pytest.raises(FloatingPointError, match="no weight has changed"):
            optimizer.step(closure)
    else:
        optimizer.step(closure)
        assert optimizer.skipped == 1
    assert p.tolist() == [1.0, 1.0, 1.0]
    assert all(bool(weights.isfinite().all()) for weights in calls)


def test_a_closure_that_fails_leaves_the_weights() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = Optimizer([p], sam(SGD(lr=0.1)))
    calls = []

    def closure() -> float:
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        p.grad = torch.ones(3)
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert p.tolist() == [1.0, 1.0, 1.0]


def test_sam_needs_a_closure() -> None:
    p = torch.ones(1, requires_grad=True)
    p.grad = torch.ones(1)
    with pytest.raises(TypeError, match=r"^sam\(SGD\) takes its gradient at two points: call optimizer.step\("):
        Optimizer([p], sam(SGD())).step()


def test_scaled_gradients_go_to_the_same_point() -> None:
    # A GradScaler's factor is in both gradients: it leaves the direction alone, and is taken out of the step.
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([p], sam(SGD(lr=0.1), rho=0.5))
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        (1024 * p**4 / 4).sum().backward()
        return p.detach()

    optimizer.step(closure)
    assert p.item() == approx(0.6625)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step(closure)
    assert p.item() == approx(0.6625)
    assert optimizer.skipped == 1


def test_a_sparse_gradient_is_refused_by_name() -> None:
    model = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = Optimizer(model.named_parameters(), sam(SGD()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.tensor([1])).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with pytest.raises(ValueError, match=r"the gradient of parameter 'weight' is sparse_coo, and only dense gradients"):
        optimizer.step(closure)


def test_torch_makes_state_by_a_step_of_zeros_without_a_closure() -> None:
    model = torch.nn.Linear(3, 2)
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer = Optimizer(model.parameters(), sam(AdamW(lr=0.1)))
    _, state = get_state_dict(model, optimizer)
    assert all(map(torch.equal, model.parameters(), weights))
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not state["state"]["weight"]["exp_avg"].any()
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises(TypeError, match="takes its gradient at two points"):
        optimizer.step()
