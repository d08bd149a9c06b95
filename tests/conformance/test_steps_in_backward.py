"""A step in the backward pass gives the bits of the usual one: every rule in every engine, and in every storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from conformance.cases import PLAIN_CASES, Case, assert_same_bits, rows_and_engines, such_as
from conformance.storage import SHAPES, STORAGES, Kept
from conformance.training import numbers_of, parameter, parameters_of, slots_of, train, weights
from stepwell import Optimizer, rules


def as_model(parameters: list[Tensor]) -> list[Tensor]:
    """The same weights, as parameters that a module takes."""
    return [nn.Parameter(p.detach()) for p in parameters]


def train_in_backward(optimizer: Optimizer, parameters: list[Tensor], last: int = 4, **options: Any) -> None:
    """The steps that `conformance.training.train` takes, each parameter in the backward pass."""
    gradients = [torch.empty_like(p) for p in parameters]
    with stepwell.step_in_backward(nn.ParameterList(parameters), optimizer, **options):
        for step in range(1, last + 1):
            for index, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                gradient.detach().copy_(parameter(p.shape, seed=1000 * step + index))
            # d/dp Σ p·g is g, to the bit.
            loss: Any = sum((p.double() * g.double()).sum() for p, g in zip(parameters, gradients, strict=True))
            loss.backward()
            optimizer.step()
            assert all(p.grad is None for p in parameters)


def assert_same_training(optimizer: Optimizer, plain: Optimizer) -> None:
    assert_same_bits(parameters_of(optimizer), parameters_of(plain))
    assert_same_bits(slots_of(optimizer), slots_of(plain))
    assert numbers_of(optimizer) == numbers_of(plain)


def compare(case: Case, engine: str, chunk_bytes: int) -> None:
    """The same training with steps in the backward pass, and without."""
    parameters, expected = as_model(weights(case)), weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine)
    plain = Optimizer(expected, case.rule, engine=engine)
    train_in_backward(optimizer, parameters, chunk_bytes=chunk_bytes)
    train(plain, expected)
    assert_same_training(optimizer, plain)


@rows_and_engines(such_as(lambda case: not case.measures, PLAIN_CASES), reference=False)
def test_every_rule_in_every_engine(case: Case, engine: str) -> None:
    compare(case, engine, chunk_bytes=0)


@rows_and_engines(such_as(lambda case: case.name in ("AdamW", "LAMB", "Adafactor", "Muon"), PLAIN_CASES))
def test_in_chunks(case: Case, engine: str) -> None:
    compare(case, engine, chunk_bytes=100)


@pytest.mark.parametrize("kept", STORAGES, ids=str)
def test_every_storage(kept: Kept) -> None:
    # Random bits depend on a parameter's place among all, not on what is stepped together.
    pair = [as_model([parameter(shape, kept.dtype, seed) for seed, shape in enumerate(SHAPES)]) for _ in range(2)]
    optimizers = [Optimizer(each, rules.AdamW(lr=0.05), **kept.options) for each in pair]
    train_in_backward(optimizers[0], pair[0], chunk_bytes=0)
    train(optimizers[1], pair[1])
    assert_same_training(*optimizers)


@pytest.mark.parametrize("name", ["Muon", "SOAP", "Shampoo"])
def test_large_matrices_do_not_wait_for_each_other(name: str) -> None:
    # Of 128·256 numbers and fewer, all of one shape are worked on in a stack, whose products are rounded otherwise.
    (case,) = such_as(lambda case: case.name == name, PLAIN_CASES)
    pair = [as_model([parameter((130, 254), seed=seed) for seed in range(3)]) for _ in range(2)]
    optimizers = [Optimizer(each, case.rule) for each in pair]
    train_in_backward(optimizers[0], pair[0], last=3)
    train(optimizers[1], pair[1], last=3)
    assert_same_training(*optimizers)


def test_groups_of_several_rules() -> None:
    groups = [("AdamW", (40,), 0.1), ("Muon", (8, 6), 0.02), ("Lion", (3, 5), 0.01), ("LAMB", (7, 7), 0.05)]
    pair = []
    for _ in range(2):
        parameters = as_model([parameter(shape, seed=seed) for seed, (_, shape, _) in enumerate(groups)])
        made: list[dict[str, Any]] = [
            {"params": [p], "rule": rule, "lr": lr, "weight_decay": 0.1}
            for p, (rule, _, lr) in zip(parameters, groups, strict=True)
        ]
        pair.append((Optimizer(made, rules.AdamW()), parameters))
    train_in_backward(*pair[0], chunk_bytes=0)
    train(*pair[1])
    assert_same_training(pair[0][0], pair[1][0])
