"""Small trainings that the conformance suite watches: parameters, gradients and steps, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from conformance.cases import Case
from stepwell import Optimizer


def weights(case: Case, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters of the case's shapes, the same numbers at each call."""
    return [parameter(shape, dtype, seed) for seed, shape in enumerate(case.shapes)]


def parameter(shape: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """One parameter with normal weights that every dtype of the suite can hold."""
    return _normal(shape, seed).to(dtype).requires_grad_()


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).bfloat16().half().double()


def give_gradients(parameters: Sequence[Tensor], step: int, factor: float = 1.0) -> None:
    """Put normal gradients into the parameters: other numbers for each step and parameter, the same at each call."""
    for index, p in enumerate(parameters):
        gradient = torch.view_as_complex(_normal((*p.shape, 2), 1000 * step + index)) if p.is_complex() else None
        real = _normal(p.shape, 1000 * step + index) if gradient is None else gradient
        p.grad = torch.empty_like(p).copy_(factor * real)


def train(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], first: int = 1, last: int = 4) -> None:
    """Steps `first` to `last` of the training that `give_gradients` describes."""
    for step in range(first, last + 1):
        give_gradients(parameters, step)
        optimizer.step()


def trained(
    case: Case, engine: str, dtype: torch.dtype = torch.float32, *, steps: int = 4, **options: Any
) -> Optimizer:
    """An optimizer after a few steps on the case's shapes."""
    parameters = weights(case, dtype)
    optimizer = Optimizer(parameters, case.rule, engine=engine, **options)
    train(optimizer, parameters, last=steps)
    return optimizer


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters, detached, in order."""
    return [p.detach() for group in optimizer.param_groups for p in group["params"]]


def slots_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All tensors of state, parameter by parameter, slot by slot in alphabetical order."""
    return [
        state[name]
        for group in optimizer.param_groups
        for state in (optimizer.state[p] for p in group["params"])
        for name in sorted(state)
        if isinstance(state[name], Tensor)
    ]


def numbers_of(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """The steps and the scalar slots, parameter by parameter."""
    return [
        {name: value for name, value in optimizer.state[p].items() if not isinstance(value, Tensor)}
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def assert_slots_are_as_declared(optimizer: Optimizer, case: Case) -> None:
    """Every slot has the shape and the dtype that its rule says, for parameters of each shape."""
    for p in optimizer.param_groups[0]["params"]:
        fitted, shape = case.rule.fit(tuple(p.shape)), tuple(p.shape)
        for slot in fitted.slot_list():
            held = optimizer.state[p][slot.name]
            if not slot.scalar:
                assert held.shape == fitted.slot_shape(slot, shape)
                assert held.dtype == (torch.promote_types(p.dtype, torch.float32) if slot.wide else p.dtype)


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors as they are now."""
    return [t.detach().clone() for t in tensors]
