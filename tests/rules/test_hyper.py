"""What values a hyper-parameter may take, by its annotation, and which of them are flags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch

from stepwell import Optimizer, Rule
from stepwell.rules import SGD, Adam, Muon
from stepwell.rules.hyper import (
    Count,
    Fraction,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    Rounds,
    Switch,
    Whole,
    is_flag,
    may_be_flag,
    validated,
)
from stepwell.rules.registry import rule_classes
from stepwell.rules.rule import flags, hyper_parameters

approx = pytest.approx

Betas = tuple[float, Fraction]
Mean = Literal["mean", "sum"]


class Norm(Enum):
    L1 = 1
    L2 = 2


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (NonNegative, 0),
        (NonNegative, 0.0),
        (Positive, 1e-300),
        (Fraction, 0.0),
        (OpenFraction, 0.5),
        (Whole, 3),
        (Whole, 3.0),
        (Count, 1),
        (int, -5),
        (float, -1e308),
        (bool, False),
        (float | None, None),
        (float | None, 0.5),
        (Betas, (2.0, 0.5)),
        (Mean, "sum"),
        (Mean | None, None),
        (bool | float, True),
        (bool | float, 0.5),
        (Mean | NonNegative, "sum"),
        (Mean | NonNegative, 0.5),
        (int | float, 2.5),
        (Count | Betas, (2.0, 0.5)),
        (float | tuple[float, float] | Betas, (2.0, 0.5)),
        (tuple[float] | Betas, (2.0, 0.5)),
        (float | Any, "free"),
        (float | Norm, Norm.L1),
    ],
    ids=repr,
)
def test_values_in_range_stay_what_they_are(annotation: Any, value: Any) -> None:
    result = validated("x", value, annotation)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("annotation", [Count, int, int | float, Count | Betas], ids=repr)
def test_whole_numbers_of_numpy_become_pythons(annotation: Any) -> None:
    result = validated("x", np.int64(5), annotation)
    assert (result, type(result)) == (5, int)
    with pytest.raises(TypeError):
        validated("x", np.bool_(True), annotation)


def test_a_list_of_numbers_becomes_a_tuple() -> None:
    assert validated("betas", [2.0, 0.5], Betas) == (2.0, 0.5)


def test_a_tensor_of_one_number_stays_a_tensor() -> None:
    lr = torch.tensor(0.1)
    assert validated("lr", lr, NonNegative) is lr


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (NonNegative, -0.1, "x must be at least 0, got -0.1"),
        (NonNegative, float("nan"), "x must be at least 0, got nan"),
        (NonNegative, math.inf, "x must be a finite number of at least 0, got inf"),
        (Positive, math.inf, "x must be a finite number above 0, got inf"),
        (Positive, 0.0, "x must be above 0, got 0.0"),
        (Fraction, 1.0, "x must be in [0, 1), got 1.0"),
        (OpenFraction, 0.0, "x must be in (0, 1), got 0.0"),
        (Annotated[float, Range(low=-1, high=1)], 2, "x must be in [-1, 1], got 2"),
        (Whole, 0.1, "x must be a whole number at least 0, got 0.1"),
        (Count, 0, "x must be a whole number at least 1, got 0"),
        (Rounds, 10**9, "x must be a whole number in [1, 100], got 1000000000"),
        (float, float("inf"), "x must be a finite number, got inf"),
        (float | None, float("nan"), "x must be a finite number, got nan"),
        (NonNegative, torch.tensor(-1.0), "x must be at least 0, got tensor(-1.)"),
        (Betas, (2.0, 1.5), "x[1] must be in [0, 1), got 1.5"),
        (Betas, (2.0,), "x must be 2 numbers, got (2.0,)"),
        (Betas, 0.9, "x must be 2 numbers, got 0.9"),
        (Mean, "maen", "x must be one of 'mean', 'sum', got 'maen' (did you mean 'mean'?)"),
        (Mean | None, "product", "x must be one of 'mean', 'sum', got 'product'"),
        (Mean | NonNegative, -1.0, "x must be at least 0, got -1.0"),
        (NonNegative | Mean, "maen", "x must be one of 'mean', 'sum', got 'maen' (did you mean 'mean'?)"),
        (bool | NonNegative, -1.0, "x must be at least 0, got -1.0"),
        (NonNegative | str, -1.0, "x must be at least 0, got -1.0"),
        (int | float, float("inf"), "x must be a finite number, got inf"),
        (float | Betas, (2.0, 1.5), "x[1] must be in [0, 1), got 1.5"),
    ],
    ids=repr,
)
def test_values_out_of_range(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        validated("x", value, annotation)
    assert str(raised.value) == message
    with pytest.raises(ValueError) as raised:
        validated("x", value, annotation, " (group 'norms')")
    assert str(raised.value) == f"{message} (group 'norms')"


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (NonNegative, "fast", "x must be a number at least 0, got 'fast' of type str"),
        (NonNegative, None, "x must be a number at least 0, got None of type NoneType"),
        (NonNegative, True, "x must be a number at least 0, got True of type bool"),
        (NonNegative, 1j, "x must be a number at least 0, got 1j of type complex"),
        (NonNegative, torch.ones(2), "x must be at least 0, got a tensor of shape (2,)"),
        (float, "2", "x must be a finite number, got '2' of type str"),
        (Count, 2.0, "x must be a whole number, got 2.0 of type float"),
        (int, 2.5, "x must be a whole number, got 2.5 of type float"),
        (bool, 1, "x must be True or False, got 1"),
        (bool, None, "x must be True or False, got None"),
        (NonNegative | bool, "fast", "x must be a number at least 0, got 'fast' of type str"),
    ],
    ids=repr,
)
def test_values_of_the_wrong_type(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        validated("x", value, annotation)
    assert str(raised.value) == message
    with pytest.raises(TypeError) as raised:
        validated("x", value, annotation, " (group 'norms')")
    assert str(raised.value) == f"{message} (group 'norms')"


def test_iterations_that_would_hang_are_refused() -> None:
    iterated = [rule for rule in rule_classes() if "ns_steps" in hyper_parameters(rule)]
    assert Muon in iterated
    for rule in iterated:
        with pytest.raises(ValueError, match=r"^ns_steps must be a whole number in \[1, 100\], got 1000000000$"):
            rule(ns_steps=10**9)


# Flags: what decides a rule's arithmetic.


def test_what_is_a_flag_and_what_is_a_number() -> None:
    assert dict(flags(Adam, Adam(amsgrad=True).values())) == {
        "amsgrad": True,
        "decay": "coupled",
        "correct_bias": True,
        "maximize": False,
    }
    assert dict(flags(Muon, Muon().values())) == {
        "nesterov": True,
        "ns_steps": 5,
        "adjust_lr_fn": None,
        "polar_express": False,
        "split": 1,
        "split_dim": -2,
        "decay": "decoupled",
        "conv1d": False,
        "maximize": False,
    }


def test_a_switch_is_a_flag_while_it_is_off() -> None:
    assert dict(flags(SGD, SGD().values()))["momentum"] == 0.0
    assert "momentum" not in dict(flags(SGD, SGD(momentum=0.9).values()))
    assert flags(SGD, SGD(momentum=0.9).values()) == flags(SGD, SGD(momentum=0.5).values())
    assert "weight_decay" not in dict(flags(SGD, SGD().values()))


class Order(IntEnum):
    FIRST = 1
    SECOND = 2


Pairs = tuple[tuple[float, float], float]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Norm, Norm.L1, True),
        (Order, Order.SECOND, True),
        (Literal[1, 2], 2, True),
        (Literal[1, 2] | None, 2, True),
        (tuple[bool, bool], (False, True), True),
        (tuple[str, ...], ("a", "b"), True),
        (tuple[tuple[str, float], float], (("a", 0.5), 0.9), True),
        (tuple[Literal[1, 2], ...], (1, 2), True),
        (Pairs, ((0.1, 0.2), 0.3), False),
        (Betas, (2.0, 0.5), False),
        (Literal["auto"] | float, "auto", True),
        (Literal["auto"] | float, 0.5, False),
        (float | None, torch.tensor(0.5), False),
        (Any, np.float32(0.5), False),
        (Any, [1, 2], False),
    ],
    ids=repr,
)
def test_what_is_no_number_is_a_flag(annotation: Any, value: Any, expected: bool) -> None:
    assert (may_be_flag(annotation) and is_flag(annotation, value)) is expected


@pytest.mark.usefixtures("own_rules_are_forgotten")
@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_a_rule_may_branch_on_choices_and_take_tuples_apart(engine: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class OwnChoices(Rule):
        norm: Norm = Norm.L1
        order: Literal[1, 2] = 1
        signs: tuple[bool, bool] = (True, False)
        words: tuple[str, ...] = ("twice",)
        pairs: Pairs = ((1.0, 2.0), 3.0)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            (first, second), third = h.pairs
            d = first * g if h.norm is Norm.L1 else second * g
            d = d + (0 if h.order == 1 else 10)
            d = 2 * d if "twice" in h.words else d
            return third * d if h.signs[0] and not h.signs[1] else d, {}

    parameter = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([parameter], OwnChoices(lr=0.5), engine=engine)
    changes: list[tuple[dict[str, Any], float]] = [
        ({}, 6.0),
        ({"norm": Norm.L2}, 12.0),
        ({"order": 2}, 72.0),
        ({"words": ("once",)}, 36.0),
        ({"signs": (True, True)}, 12.0),
        ({"pairs": ((1.0, 4.0), 3.0)}, 14.0),
    ]
    for values, direction in changes:
        optimizer.param_groups[0].update(values)
        parameter.data.zero_()
        parameter.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        assert parameter.item() == approx(-0.5 * direction, abs=1e-15)


@pytest.mark.usefixtures("own_rules_are_forgotten")
@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_a_rule_may_ask_whether_a_switch_is_on(engine: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class OwnSwitch(Rule):
        push: Annotated[float, Range(low=0), Switch()] = 0.0

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            return (g + h.push if h.push else 2 * g), {}

    parameter = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([parameter], OwnSwitch(lr=0.1), engine=engine)
    for push, expected in [(0.0, 0.8), (1.0, 0.6), (3.0, 0.2), (0.0, 0.0)]:
        optimizer.param_groups[0]["push"] = push
        parameter.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        assert parameter.item() == approx(expected, abs=1e-15)
