"""Optimizers under torch's names: their signatures are torch's, and each is one class among its rule's optimizers."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell import rules
from stepwell.rules.registry import rule_names

FACADES = [name for name in rules.__all__ if name in rule_names()]  # the others are what rules are made of
TORCHS = ["SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "ASGD", "Rprop", "Muon"]
OPTIONS = ["engine", "clip_norm", "on_nonfinite", "state_dtype", "master", "rounding_seed", "shard_state"]
TORCHS_OWN = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}

each = pytest.mark.parametrize("name", FACADES)


def facade(name: str) -> Any:
    return getattr(stepwell, name)


def weight() -> Tensor:
    return torch.eye(3).requires_grad_()


def parameters_of(signature: inspect.Signature, kind: Any) -> list[str]:
    return [p.name for p in signature.parameters.values() if p.kind is kind]


# Signatures


def test_every_rule_has_a_facade() -> None:
    assert set(FACADES) <= set(stepwell.__all__)
    assert set(TORCHS) <= set(FACADES)


@pytest.mark.parametrize("name", TORCHS)
def test_by_position_as_torch_has_it(name: str) -> None:
    peer = getattr(torch.optim, name, None)
    if peer is None:
        pytest.skip(f"this torch has no {name}")
    ours, theirs = inspect.signature(facade(name)), inspect.signature(peer)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    positional = [argument for argument in parameters_of(theirs, kind) if argument not in {*TORCHS_OWN, "maximize"}]
    assert parameters_of(ours, kind) == positional + ["weight_decay"] * (name == "Rprop")  # torch's has none
    for argument in positional:
        assert ours.parameters[argument].default == theirs.parameters[argument].default
    by_name = set(parameters_of(theirs, inspect.Parameter.KEYWORD_ONLY)) - TORCHS_OWN
    assert by_name <= set(parameters_of(ours, inspect.Parameter.KEYWORD_ONLY))


def test_adamw_in_full() -> None:
    signature = inspect.signature(stepwell.AdamW)
    defaults = {name: p.default for name, p in signature.parameters.items() if name != "params"}
    assert next(iter(signature.parameters)) == "params"
    assert signature.parameters["params"].default is inspect.Parameter.empty
    assert defaults == {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False,
        "decay": "decoupled", "correct_bias": True, "maximize": False,
        "engine": "auto", "clip_norm": None, "on_nonfinite": "ignore",
        "state_dtype": None, "master": None, "rounding_seed": 0, "shard_state": False,
    }  # fmt: skip
    by_name = parameters_of(signature, inspect.Parameter.KEYWORD_ONLY)
    assert by_name == ["decay", "correct_bias", "maximize", *OPTIONS]
    assert signature.parameters["lr"].annotation is float
    assert signature.parameters["betas"].annotation == tuple[float, float]


@each
def test_the_signature_is_the_rules_fields_and_the_options(name: str) -> None:
    signature = inspect.signature(facade(name))
    values = getattr(rules, name)().values()
    assert set(signature.parameters) == {"params", *values, *OPTIONS}
    assert {argument: signature.parameters[argument].default for argument in values} == values
    options = inspect.signature(stepwell.Optimizer)
    assert {o: signature.parameters[o].default for o in OPTIONS} == {o: options.parameters[o].default for o in OPTIONS}
    assert next(iter(values)) == "lr"


# Calls


def test_arguments_by_position_are_torchs() -> None:
    given = (0.5, (0.7, 0.8), 1e-4, 0.25, True)
    ours, theirs = stepwell.AdamW([weight()], *given), torch.optim.AdamW([weight()], *given)
    for argument in ("lr", "betas", "eps", "weight_decay", "amsgrad"):
        assert ours.param_groups[0][argument] == theirs.param_groups[0][argument]
    sgd = stepwell.SGD([weight()], 0.5, 0.75, weight_decay=0.25, nesterov=True).param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.5, 0.75, 0.25, True)


@each
def test_options_reach_the_optimizer(name: str) -> None:
    how = {"engine": "reference", "clip_norm": 2.0, "on_nonfinite": "skip"}
    stored = {"state_dtype": "bfloat16", "master": "kahan", "rounding_seed": 3}
    optimizer = facade(name)([weight()], lr=0.5, **how, **stored)
    assert {option: getattr(optimizer, option) for option in how | stored} == how | stored
    assert optimizer.param_groups[0].items() >= stored.items()
    assert optimizer.rule == getattr(rules, name)(lr=0.5)
    assert optimizer.param_groups[0]["rule"] == name


@each
def test_a_facade_is_its_rules_optimizer(name: str) -> None:
    ours, plain = weight(), weight()
    optimizers = (facade(name)([ours], lr=0.25), stepwell.Optimizer([plain], getattr(rules, name)(lr=0.25)))
    for step in range(6):  # some rules stand still at first
        for p, optimizer in zip((ours, plain), optimizers, strict=True):
            p.grad = torch.arange(9.0).reshape(3, 3).sub(step)
            optimizer.step()
    assert torch.equal(ours, plain)
    assert not torch.equal(ours, torch.eye(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stepwell.AdamW([weight()], 1, (0, 0), 0, 0, False, False),
         r"^AdamW takes at most 5 hyper-parameters by position, got 6$"),
        (lambda: stepwell.Lion([weight()], 1, (0, 0), 0, "decoupled"),
         r"^Lion takes at most 3 hyper-parameters by position, got 4$"),
        (lambda: stepwell.AdamW([weight()], 0.1, lr=0.2), r"^AdamW got 'lr' twice: by position and by name$"),
        (lambda: stepwell.SGD([weight()], 0.1, 0.9, momentum=0.2),
         r"^SGD got 'momentum' twice: by position and by name$"),
        (lambda: stepwell.AdamW([weight()], beta=0.9),
         r"^unknown hyper-parameter 'beta' for AdamW \(did you mean 'betas'\?\)$"),
        (lambda: stepwell.AdamW([weight()], fused=True),
         r"^unknown hyper-parameter 'fused' for AdamW; write engine='fused'$"),
        (lambda: stepwell.AdamW([weight()], foreach=False),
         r"^unknown hyper-parameter 'foreach' for AdamW; leave it out: the engine suits the tensors$"),
        (lambda: stepwell.AdamW([weight()], capturable=True), r"'capturable' for AdamW; leave it out: the engine"),
        (lambda: stepwell.SGD([weight()], differentiable=True), r"leave it out: no gradient passes through a step$"),
        (lambda: stepwell.Adam([weight()], decoupled_weight_decay=True),
         r"^unknown hyper-parameter 'decoupled_weight_decay' for Adam; write decay='decoupled' for True, "
         r"decay='coupled' for False$"),
        (lambda: stepwell.Adam([{"params": [weight()], "decoupled_weight_decay": True}]),
         r"'decoupled_weight_decay' for Adam; write decay='decoupled' .* \(group 0\)$"),
        (lambda: rules.RAdam(decoupled_weight_decay=True), r"for RAdam; write decay='decoupled' for True"),
        (lambda: stepwell.create_optimizer(torch.nn.Linear(2, 2), "nadam", decoupled_weight_decay=True),
         r"for NAdam; write decay='decoupled' for True"),
        (lambda: stepwell.Adafactor([weight()], beta2_decay=-0.8),
         r"^unknown hyper-parameter 'beta2_decay' for Adafactor; write 'decay_rate', as it is called here$"),
        (lambda: stepwell.Adafactor([weight()], d=1.0), r"'d' for Adafactor; write 'clip_threshold', as it is called"),
        (lambda: stepwell.AdamW([weight()], d=1.0), r"'d' for AdamW; it takes lr, betas, .*, clip_norm, "),
        (lambda: stepwell.AdamW([weight()], momentum=0.9), r"'momentum' for AdamW; write 'betas', as it is called"),
        (lambda: stepwell.AdamW([weight()], max_grad_norm=1.0), r"'max_grad_norm' for AdamW; write 'clip_norm', "),
        (lambda: stepwell.Lion([weight()], weight_deacy=0.9),
         r"^unknown hyper-parameter 'weight_deacy' for Lion \(did you mean 'weight_decay'\?\)$"),
        (lambda: stepwell.AdamW([weight()], engin="fused"), r"'engin' for AdamW \(did you mean 'engine'\?\)$"),
        (lambda: stepwell.AdamW([weight()], clipnorm=1.0), r"'clipnorm' for AdamW \(did you mean 'clip_norm'\?\)$"),
        (lambda: stepwell.AdamW([weight()], xyzzy=1.0), r"'xyzzy' for AdamW; it takes lr, betas, "),
        (lambda: stepwell.AdamW(lr=0.1), r"^AdamW needs parameters to train: write AdamW\(model\.parameters\(\), "),
        (lambda: stepwell.AdamW(), r"^AdamW needs parameters to train"),
    ],
)  # fmt: skip
def test_calls_that_are_refused(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@each
def test_values_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=r"^lr must be at least 0, got -1$"):
        facade(name)([weight()], lr=-1)
    with pytest.raises(ValueError, match=r"^clip_norm must be above 0, got 0$"):
        facade(name)([weight()], clip_norm=0)
    with pytest.raises(ValueError, match=r"^optimizer got an empty parameter list$"):
        facade(name)([])


# What a facade is


@each
def test_a_facade_is_a_documented_class_of_the_package(name: str) -> None:
    cls = facade(name)
    assert isinstance(cls([weight()]), torch.optim.Optimizer)
    assert isinstance(cls([weight()]), stepwell.Optimizer)
    assert (cls.__name__, cls.__qualname__, cls.__module__) == (name, name, "stepwell")
    doc = inspect.getdoc(getattr(rules, name))
    assert doc
    assert cls.__doc__.startswith(doc.splitlines()[0])
    assert "`stepwell.Optimizer`" in cls.__doc__
    assert repr(cls([weight()])).startswith(f"{name} (")


def test_facades_are_not_each_others() -> None:
    assert not isinstance(stepwell.AdamW([weight()]), stepwell.Adam)


@each
def test_a_facade_may_be_a_parent(name: str) -> None:
    class Gentle(facade(name)):  # type: ignore[misc]
        """One of a user's own."""

        def __init__(self, params: Any) -> None:
            super().__init__(params, lr=0.125)

    assert Gentle([weight()]).param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
@each
def test_copies_are_of_the_same_class_and_go_on(name: str, way: str) -> None:
    assert_goes_on_as_copied(facade(name), way)


class Own(stepwell.AdamW):
    """One of a user's own."""


def assert_goes_on_as_copied(made: Any, way: str) -> None:
    p = weight()
    optimizer = made([("w", p)], lr=0.25, clip_norm=2.0)
    p.grad = torch.arange(9.0).reshape(3, 3)
    optimizer.step()
    if way == "deepcopy":
        twin = copy.deepcopy(optimizer)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(optimizer))
    else:
        buffer = io.BytesIO()
        torch.save(optimizer, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert type(twin) is made
    q = twin.param_groups[0]["params"][0]
    assert q is not p
    for each_one, optimizing in ((p, optimizer), (q, twin)):
        each_one.grad = torch.arange(9.0).reshape(3, 3).sub(4.0)
        optimizing.step()
    assert torch.equal(p, q)
    twin.add_param_group({"params": [("v", weight())]})  # it is a whole optimizer, defaults and all
    assert twin.param_groups[1]["lr"] == 0.25
    assert twin.param_groups[1]["rule"] == made.rule_type.__name__


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_optimizers_of_wrapped_rules_go_on(way: str) -> None:
    made = stepwell.optimizer_class("cautious(ema(AdamW))")
    assert_goes_on_as_copied(made, way)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_a_class_of_ones_own_are_of_it(way: str) -> None:
    assert_goes_on_as_copied(Own, way)


@each
def test_the_class_itself_can_be_pickled(name: str) -> None:
    assert pickle.loads(pickle.dumps(facade(name))) is facade(name)


@pytest.mark.parametrize("name", ["Lion", "Muon"])
def test_decay_that_nothing_would_apply_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^decay must be one of 'coupled', .*, got 'inside'$"):
        facade(name)([weight()], weight_decay=0.1, decay="inside")


@each
def test_annotations_are_types(name: str) -> None:
    assert not any(isinstance(p.annotation, str) for p in inspect.signature(facade(name)).parameters.values())
