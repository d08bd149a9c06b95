"""Offloaded state where parameters, groups or dtypes change in mid-training: as without, or refused in words."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import stepwell
from stepwell import Optimizer


def pair() -> list[tuple[nn.Linear, Optimizer]]:
    """Two of the same model; the state of the first's optimizer is offloaded."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    other = copy.deepcopy(model)
    offloaded = stepwell.offload(stepwell.AdamW(model.parameters(), lr=0.1))
    return [(model, offloaded), (other, stepwell.AdamW(other.parameters(), lr=0.1))]


def step(model: nn.Linear, optimizer: Optimizer) -> None:
    model(torch.ones(2, 3, dtype=model.weight.dtype)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_model_in_another_dtype() -> None:
    both = pair()
    for model, optimizer in both:
        optimizer.observe()
        step(model, optimizer)
        model.double()
        step(model, optimizer)
        assert optimizer.observed
    (model, offloaded), (other, plain) = both
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(offloaded.state[model.weight]["exp_avg"], plain.state[other.weight]["exp_avg"])
    assert offloaded.telemetry() == plain.telemetry()


def test_groups_and_parameters_that_come_and_go() -> None:
    both = pair()
    for model, optimizer in both:
        step(model, optimizer)
        added = nn.Parameter(torch.ones(2))
        optimizer.param_groups[0]["params"].append(added)
        model.register_parameter("added", added)
        added.grad = torch.ones(2)
        step(model, optimizer)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.2})
        del optimizer.param_groups[0]
        last = optimizer.param_groups[0]["params"][0]
        last.grad = torch.ones(2)
        optimizer.step()
    for ours, theirs in zip(both[0][0].parameters(), both[1][0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    last_of = [optimizer.param_groups[0]["params"][0] for _, optimizer in both]
    assert torch.equal(*last_of)
    assert last_of[0][0] < 1


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="torch before 2.9")
def test_gradients_in_another_dtype() -> None:
    found = []
    for offloaded in (False, True):
        weight = nn.Parameter(torch.ones(2).bfloat16())
        weight.grad_dtype = torch.float32
        optimizer: Optimizer = stepwell.AdamW([weight], lr=0.1)
        optimizer = stepwell.offload(optimizer) if offloaded else optimizer
        weight.grad = torch.tensor([1.0, -1.0])
        optimizer.step()
        found.append(weight.detach().clone())
    assert torch.equal(*found)
    assert found[0].tolist() == pytest.approx([0.9, 1.1], rel=2**-7)


def test_whether_it_is_observed() -> None:
    _, optimizer = pair()[0]
    assert not optimizer.observed
    optimizer.observe()
    assert optimizer.observed


def test_a_copy_between_loading_and_the_next_step() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = stepwell.offload(stepwell.ScheduleFreeAdamW([weight], lr=0.1))
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    again = copy.deepcopy(optimizer)
    its = again.param_groups[0]["params"][0]
    its.grad = torch.ones(3)
    again.step()
    optimizer.step()
    assert torch.equal(its, weight)


@pytest.mark.parametrize("how", ["pop", "clear", "an empty one", "a saved one"])
def test_state_that_is_cleared_or_replaced(how: str) -> None:
    both = pair()
    for model, optimizer in both:
        optimizer.observe()
        step(model, optimizer)
        saved = copy.deepcopy(optimizer.state[model.weight])
        step(model, optimizer)
        if how == "pop":
            optimizer.state.pop(model.weight)
        elif how == "clear":
            optimizer.state.clear()
        elif optimizer is both[0][1]:
            optimizer.state[model.weight] = saved if how == "a saved one" else {}
        else:  # in place
            optimizer.state[model.weight].clear()
            optimizer.state[model.weight].update(saved if how == "a saved one" else {})
        step(model, optimizer)
        step(model, optimizer)
    (model, offloaded), (other, _) = both
    assert offloaded.state[model.weight]["step"] == (3 if how == "a saved one" else 2)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)
