"""Equality with `torch.optim`, step by step, and checkpoints that go from one to the other."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from conformance.cases import assert_same_bits
from conformance.training import copies, parameter, train

STEPS = 20
SHAPES = ((), (5,), (4, 3), (2, 3, 4), (1500,))


@dataclass(frozen=True)
class Pair:
    """An optimizer of the same name in both libraries, with the same arguments; `own` are ours alone."""

    name: str
    values: dict[str, Any]
    own: dict[str, Any] = field(default_factory=dict)
    theirs_alone: dict[str, Any] = field(default_factory=dict)

    def ours(self, parameters: Sequence[Tensor], engine: str = "auto") -> stepwell.Optimizer:
        return getattr(stepwell, self.name)(parameters, engine=engine, **self.values, **self.own)

    def theirs(self, parameters: Sequence[Tensor], **flags: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, self.name)(parameters, **self.values, **self.theirs_alone, **flags)


ADAM = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6}

PAIRS = {
    "sgd": Pair("SGD", {"lr": 0.05}),
    "sgd-decay": Pair("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "sgd-momentum": Pair("SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd-dampening": Pair("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}),
    "sgd-nesterov": Pair("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "sgd-maximize": Pair("SGD", {"lr": 0.05, "momentum": 0.9, "maximize": True, "weight_decay": 0.1}),
    "adam": Pair("Adam", ADAM),
    "adam-decay": Pair("Adam", {**ADAM, "weight_decay": 0.1}),
    "adam-amsgrad": Pair("Adam", {**ADAM, "weight_decay": 0.1, "amsgrad": True}),
    "adam-maximize": Pair("Adam", {**ADAM, "weight_decay": 0.1, "maximize": True}),
    "adam-decoupled": Pair(
        "Adam", {**ADAM, "weight_decay": 0.5}, own={"decay": "decoupled"}, theirs_alone={"decoupled_weight_decay": True}
    ),
    "adamw": Pair("AdamW", {**ADAM, "weight_decay": 0.5}),
    "adamw-amsgrad": Pair("AdamW", {**ADAM, "weight_decay": 0.5, "amsgrad": True}),
    "adamw-maximize": Pair("AdamW", {**ADAM, "weight_decay": 0.5, "maximize": True}),
    "adamw-defaults": Pair("AdamW", {}),
    "adagrad": Pair("Adagrad", {"lr": 0.1}),
    "adagrad-all": Pair(
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.1},
    ),
    "rmsprop": Pair("RMSprop", {"lr": 0.02}),
    "rmsprop-momentum": Pair("RMSprop", {"lr": 0.02, "alpha": 0.8, "momentum": 0.9, "weight_decay": 0.1, "eps": 1e-3}),
    "rmsprop-centered": Pair("RMSprop", {"lr": 0.02, "alpha": 0.8, "centered": True}),
    "rmsprop-all": Pair("RMSprop", {"lr": 0.02, "alpha": 0.8, "momentum": 0.5, "centered": True, "maximize": True}),
    "adadelta": Pair("Adadelta", {}),
    "adadelta-decay": Pair("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    "nadam": Pair("NAdam", {"lr": 0.02}),
    "nadam-decay": Pair("NAdam", {**ADAM, "weight_decay": 0.1, "momentum_decay": 0.1}),
    "nadam-decoupled": Pair(
        "NAdam",
        {**ADAM, "weight_decay": 0.5},
        own={"decay": "decoupled"},
        theirs_alone={"decoupled_weight_decay": True},
    ),
    "radam": Pair("RAdam", {"lr": 0.02}),
    "radam-decay": Pair("RAdam", {**ADAM, "weight_decay": 0.1}),
    "radam-decoupled": Pair(
        "RAdam",
        {**ADAM, "weight_decay": 0.5},
        own={"decay": "decoupled"},
        theirs_alone={"decoupled_weight_decay": True},
    ),
    "radam-never-rectified": Pair("RAdam", {"lr": 0.02, "betas": (0.8, 0.6)}),
    "adamax": Pair("Adamax", {"lr": 0.02}),
    "adamax-decay": Pair("Adamax", {**ADAM, "weight_decay": 0.1, "maximize": True}),
    "asgd": Pair("ASGD", {}),
    "asgd-averaging": Pair("ASGD", {"lr": 0.05, "lambd": 0.2, "alpha": 0.6, "t0": 5, "weight_decay": 0.1}),
    "rprop": Pair("Rprop", {"lr": 0.02}),
    "rprop-bounds": Pair("Rprop", {"lr": 0.02, "etas": (0.4, 1.7), "step_sizes": (0.01, 0.05), "maximize": True}),
}
# Slots that are one number a parameter, which torch keeps in tensors.
NUMBERS = frozenset({"step", "mu_product", "eta", "mu"})

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.complex128: 1e-12, torch.complex64: 1e-6}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters of all shapes, the same numbers at each call."""
    if dtype.is_complex:
        parts = [parameter((*shape, 2), torch.float64, seed).detach() for seed, shape in enumerate(SHAPES)]
        return [torch.view_as_complex(part).to(dtype).requires_grad_() for part in parts]
    return [parameter(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]


def clones(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in parameters]


def near(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Numbers within the tolerance of their dtype, as a share of the tensor's largest.

    A number near zero is what is left of the larger ones it was summed from, and has their rounding.
    """
    for a, e in zip(copies(actual), copies(expected), strict=True):
        tolerance = TOLERANCE[e.dtype] * max(1.0, float(e.abs().max()))
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance)


def slot_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """The tensors of the parameter's shape that the optimizer keeps for each parameter."""
    states = optimizer.state.values()
    return {name for state in states for name, value in state.items() if isinstance(value, Tensor)} - NUMBERS


def numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """The numbers that the optimizer keeps for each parameter, but for the step."""
    names = NUMBERS - {"step"}
    states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
    return [{name: float(value) for name, value in state.items() if name in names} for state in states]


def slots(optimizer: torch.optim.Optimizer, name: str) -> list[Tensor]:
    return [optimizer.state[p][name] for p in optimizer.param_groups[0]["params"]]


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.fixture
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """torch keeps its numbers in the default dtype: float64 where that is what is compared."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype.to_real())
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("default_dtype")
@DTYPES
@ENGINES
@EVERY_PAIR
def test_twenty_steps(pair: Pair, engine: str, dtype: torch.dtype) -> None:
    mine, expected = weights(dtype), weights(dtype)
    ours, theirs = pair.ours(mine, engine), pair.theirs(expected, foreach=False)
    for step in range(1, STEPS + 1):
        train(ours, mine, first=step, last=step)
        train(theirs, expected, first=step, last=step)
        near(mine, expected)
    assert slot_names(ours) == slot_names(theirs)
    for name in slot_names(theirs):
        near(slots(ours, name), slots(theirs, name))
    for own, torchs in zip(numbers(ours), numbers(theirs), strict=True):
        assert own == pytest.approx(torchs, rel=TOLERANCE[dtype])
    assert all(p.dtype == dtype for p in mine)


@EVERY_PAIR
def test_defaults_are_torchs(pair: Pair) -> None:
    ours, theirs = getattr(stepwell, pair.name)(weights()), getattr(torch.optim, pair.name)(weights())
    shared = set(ours.param_groups[0]) & set(theirs.param_groups[0]) - {"params"}
    assert shared >= {"lr", "maximize"}
    assert "weight_decay" in shared or pair.name == "Rprop"  # torch's has none
    for name in shared:
        assert ours.param_groups[0][name] == theirs.param_groups[0][name]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_arguments_by_position_are_torchs(name: str) -> None:
    arguments = {"SGD": (0.1, 0.9, 0.2, 0.3), "Adam": (0.1, (0.5, 0.6), 1e-3, 0.3, True)}.get(name)
    arguments = arguments or (0.1, (0.5, 0.6), 1e-3, 0.3, True)
    ours = getattr(stepwell, name)(weights(), *arguments).param_groups[0]
    theirs = getattr(torch.optim, name)(weights(), *arguments).param_groups[0]
    for key in set(ours) & set(theirs) - {"params"}:
        assert ours[key] == theirs[key]


# From torch's checkpoint to ours.


@ENGINES
@EVERY_PAIR
def test_torchs_state_loads_and_training_goes_on(pair: Pair, engine: str) -> None:
    expected = weights()
    theirs = pair.theirs(expected, foreach=False)
    train(theirs, expected, last=7)
    mine = clones(expected)
    ours = getattr(stepwell, pair.name)(mine, engine=engine)  # with defaults: the numbers come with the state
    ours.load_state_dict(through_a_file(theirs.state_dict()))

    for name in slot_names(theirs):
        assert_same_bits(slots(ours, name), slots(theirs, name))
    group, torchs = ours.param_groups[0], theirs.param_groups[0]
    for name in set(group) & set(torchs) - {"params"}:
        assert group[name] == torchs[name]
    train(theirs, expected, first=8, last=STEPS)
    train(ours, mine, first=8, last=STEPS)
    near(mine, expected)
    for name in slot_names(theirs):
        near(slots(ours, name), slots(theirs, name))


@EVERY_PAIR
def test_torchs_state_from_before_the_first_step(pair: Pair) -> None:
    # The first gradient that a momentum sees is special, so "no state" has to stay "no state".
    expected, mine = weights(), weights()
    theirs, ours = pair.theirs(expected, foreach=False), getattr(stepwell, pair.name)(mine)
    ours.load_state_dict(theirs.state_dict())
    assert not any(ours.state.values()) or pair.name == "Adagrad"  # torch's fills its slots when it is made
    train(theirs, expected)
    train(ours, mine)
    near(mine, expected)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_torchs_step_becomes_a_plain_number(name: str) -> None:
    expected = weights()
    theirs = getattr(torch.optim, name)(expected)
    train(theirs, expected, last=7)
    mine = clones(expected)
    ours = getattr(stepwell, name)(mine)
    ours.load_state_dict(theirs.state_dict())
    assert [ours.state[p]["step"] for p in mine] == [7] * len(mine)
    assert all(type(ours.state[p]["step"]) is int for p in mine)


@pytest.mark.parametrize("flags", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_how_torch_ran_is_not_loaded(name: str, flags: dict[str, bool]) -> None:
    expected = weights()
    theirs = getattr(torch.optim, name)(expected, lr=0.02, **flags)
    train(theirs, expected, last=3)
    mine = clones(expected)
    ours = getattr(stepwell, name)(mine, engine="reference")
    before = set(ours.param_groups[0])
    ours.load_state_dict(theirs.state_dict())
    assert set(ours.param_groups[0]) == before
    assert not {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"} & before
    assert ours.engine == "reference"
    train(theirs, expected, first=4, last=6)
    train(ours, mine, first=4, last=6)
    near(mine, expected)


@pytest.mark.parametrize(("decoupled", "decay"), [(True, "decoupled"), (False, "coupled")])
@pytest.mark.parametrize("before", ["coupled", "decoupled", "independent"])
@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam"])
def test_torchs_decoupled_weight_decay_decides_the_decay(name: str, before: str, decoupled: bool, decay: str) -> None:
    theirs = getattr(torch.optim, name)(weights(), decoupled_weight_decay=decoupled)
    ours = getattr(stepwell, name)(weights(), decay=before)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["decay"] == decay


def test_a_frozen_parameter_has_no_state_in_torchs_checkpoint() -> None:
    expected = weights()
    theirs = torch.optim.AdamW(expected, lr=0.02)
    for p in expected[1:]:
        p.grad = torch.ones_like(p)
    theirs.step()
    mine = clones(expected)
    ours = stepwell.AdamW(mine, lr=0.02)
    ours.load_state_dict(theirs.state_dict())
    assert not ours.state.get(mine[0])
    assert [ours.state[p]["step"] for p in mine[1:]] == [1] * (len(mine) - 1)
    train(theirs, expected)
    train(ours, mine)
    near(mine, expected)


def test_groups_keep_their_own_numbers() -> None:
    def groups(parameters: list[Tensor]) -> list[dict[str, Any]]:
        return [
            {"params": parameters[:2], "lr": 0.05, "weight_decay": 0.0},
            {"params": parameters[2:], "betas": (0.5, 0.6), "initial_lr": 0.3},
        ]

    expected = weights()
    theirs = torch.optim.AdamW(groups(expected), lr=0.01)
    train(theirs, expected)
    mine = clones(expected)
    ours = stepwell.AdamW([{"params": mine[:2]}, {"params": mine[2:]}])
    ours.load_state_dict(theirs.state_dict())
    for group, torchs in zip(ours.param_groups, theirs.param_groups, strict=True):
        for name in ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"):
            assert group[name] == torchs[name]
    assert ours.param_groups[1]["initial_lr"] == 0.3
    train(theirs, expected, first=5, last=9)
    train(ours, mine, first=5, last=9)
    near(mine, expected)


# From our checkpoint to torch's.


@EVERY_PAIR
def test_our_state_loads_into_torch_and_training_goes_on(pair: Pair) -> None:
    mine = weights()
    ours = pair.ours(mine)
    train(ours, mine, last=7)
    expected = clones(mine)
    theirs = getattr(torch.optim, pair.name)(expected, foreach=False)
    theirs.load_state_dict(through_a_file(ours.state_dict()))

    assert slot_names(theirs) == slot_names(ours)
    for name in slot_names(ours):
        assert_same_bits(slots(theirs, name), slots(ours, name))
    for name in pair.values:
        assert theirs.param_groups[0][name] == ours.param_groups[0][name]
    train(ours, mine, first=8, last=STEPS)
    train(theirs, expected, first=8, last=STEPS)
    near(mine, expected)


@EVERY_PAIR
def test_there_and_back_again(pair: Pair) -> None:
    mine = weights()
    ours = pair.ours(mine)
    train(ours, mine, last=7)
    theirs = getattr(torch.optim, pair.name)(clones(mine))
    theirs.load_state_dict(ours.state_dict())
    back = clones(mine)
    again = getattr(stepwell, pair.name)(back)
    again.load_state_dict(theirs.state_dict())
    assert again.param_groups[0].keys() == ours.param_groups[0].keys()
    train(ours, mine, first=8)
    train(again, back, first=8)
    assert_same_bits(copies(back), copies(mine))


# Muon: torch multiplies in bfloat16 (8 bits of mantissa) whatever it is given, through five steep polynomials.

MUONS = {
    "defaults": {"lr": 0.02},
    "plain": {"lr": 0.02, "momentum": 0.8, "nesterov": False, "weight_decay": 0.5},
    "match_rms_adamw": {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0},
    "one step": {"lr": 0.02, "ns_steps": 1, "ns_coefficients": (1.5, -0.5, 0.0)},
}
MATRICES = ((12, 12), (8, 24), (24, 8), (1, 16))


def relative(actual: Tensor, expected: Tensor) -> float:
    """The distance between two matrices, as a share of the expected one's norm."""
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("values", MUONS.values(), ids=MUONS)
def test_muon(values: dict[str, Any], engine: str) -> None:
    mine = [parameter(shape, seed=seed) for seed, shape in enumerate(MATRICES)]
    expected = clones(mine)
    ours, theirs = stepwell.Muon(mine, engine=engine, **values), torch.optim.Muon(expected, **values)
    for step in range(1, STEPS + 1):
        before = copies(mine), copies(expected)
        train(ours, mine, first=step, last=step)
        train(theirs, expected, first=step, last=step)
        for p, q, p_before, q_before in zip(mine, expected, *before, strict=True):
            assert relative(p.detach() - p_before, q.detach() - q_before) < 0.05
            assert relative(p.detach(), q.detach()) < 0.01
        near(slots(ours, "momentum_buffer"), slots(theirs, "momentum_buffer"))


def test_muon_there_and_back_again() -> None:
    expected = [parameter(shape, seed=seed) for seed, shape in enumerate(MATRICES)]
    theirs = torch.optim.Muon(expected, **MUONS["plain"])
    train(theirs, expected, last=7)
    mine = clones(expected)
    ours = stepwell.Muon(mine)
    ours.load_state_dict(through_a_file(theirs.state_dict()))
    assert_same_bits(slots(ours, "momentum_buffer"), slots(theirs, "momentum_buffer"))
    for name in theirs.defaults:
        assert ours.param_groups[0][name] == theirs.param_groups[0][name]
    back = torch.optim.Muon(clones(mine))
    back.load_state_dict(ours.state_dict())
    assert_same_bits(slots(back, "momentum_buffer"), slots(theirs, "momentum_buffer"))
    train(theirs, expected, first=8, last=12)
    train(back, back.param_groups[0]["params"], first=8, last=12)
    assert_same_bits(copies(back.param_groups[0]["params"]), copies(expected))
