"""A Schedule-Free state loaded into a model: which of its two sets of weights does the model hold?"""

from __future__ import annotations

import copy
import logging
import math
import pickle
from typing import Any

import pytest
import torch
from averaged_training import (
    NAMES,
    assert_bits,
    assert_near,
    averages,
    each_engine,
    each_rule,
    go,
    made,
    now,
    parameters_of,
    weights,
)
from torch import Tensor

import stepwell
from stepwell import Optimizer, Rule
from stepwell.rules import CAME, SGD, Adafactor


def saved(rule: Rule, holds: str, steps: int = 3, **options: Any) -> tuple[dict[str, Any], list[Tensor]]:
    """The state dict and the weights of a training after some steps, both in one mode."""
    optimizer = go(made(rule, **options), 1, steps)
    if holds == "averaged":
        optimizer.eval()
    return copy.deepcopy(optimizer.state_dict()), now(optimizer)


def resumed(rule: Rule, state: dict[str, Any], values: list[Tensor], **options: Any) -> Optimizer:
    optimizer = made(rule, [value.clone().requires_grad_() for value in values], **options)
    optimizer.load_state_dict(state)
    return optimizer


def follow(optimizer: Optimizer, rule: Rule) -> None:
    """Assert that two more steps are those of an uninterrupted training, given its gradients."""
    uninterrupted = go(made(rule), 1, 3)
    names = optimizer.param_groups[0]["param_names"]
    for step in (4, 5):
        go(uninterrupted, step, step)
        gradients = dict(zip(NAMES, (p.grad for p in parameters_of(uninterrupted)), strict=True))
        for name, p in zip(names, parameters_of(optimizer), strict=True):
            p.grad = gradients[name]
        optimizer.step()
    expected = dict(zip(NAMES, now(uninterrupted), strict=True))
    assert_near(now(optimizer), [expected[name] for name in names])


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@pytest.mark.parametrize("state_of", ["training", "averaged"])
@each_engine
@each_rule
def test_state_and_weights_of_either_mode(
    rule: Rule, engine: Any, state_of: str, weights_of: str, caplog: pytest.LogCaptureFixture
) -> None:
    state, values = saved(rule, state_of)[0], saved(rule, weights_of)[1]
    with caplog.at_level(logging.WARNING, "stepwell"):
        optimizer = resumed(rule, state, values, engine=engine)
        optimizer.train()
    said = [record.getMessage() for record in caplog.records if record.name == "stepwell"]
    if state_of == weights_of:
        assert said == []
    else:
        assert said == [
            f"the weights loaded are the {weights_of} ones, the state was saved with the {state_of} ones: put right"
        ]
    assert_near(now(optimizer), now(go(made(rule), 1, 3)))
    assert_near(now(go(optimizer, 4, 6)), now(go(made(rule), 1, 6)), 1e-4)


@each_rule
def test_a_mismatch_is_put_right_at_the_first_step(rule: Rule) -> None:
    state, values = saved(rule, "training")[0], saved(rule, "averaged")[1]
    follow(resumed(rule, state, values), rule)


@each_rule
def test_weights_loaded_after_the_state_count(rule: Rule) -> None:
    # The model's checkpoint may be read after the optimizer's.
    state, values = saved(rule, "training")[0], saved(rule, "averaged")[1]
    optimizer = made(rule)
    optimizer.load_state_dict(state)
    with torch.no_grad():
        for p, value in zip(parameters_of(optimizer), values, strict=True):
            p.copy_(value)
    follow(optimizer, rule)


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@each_rule
def test_evaluation_first(rule: Rule, weights_of: str) -> None:
    optimizer = resumed(rule, saved(rule, "training")[0], saved(rule, weights_of)[1])
    expected = averages(go(made(rule), 1, 3))
    with optimizer.averaged():
        assert_near(now(optimizer), expected)
    assert_near(now(optimizer), now(go(made(rule), 1, 3)))


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@each_rule
def test_weights_that_went_through_bfloat16(rule: Rule, weights_of: str) -> None:
    values = [value.bfloat16().float() for value in saved(rule, weights_of)[1]]
    optimizer = resumed(rule, saved(rule, "training")[0], values)
    optimizer.train()
    assert_near(now(optimizer), now(go(made(rule), 1, 3)), 2e-2)


@pytest.mark.parametrize("weights_of", ["training", "averaged"])
@each_rule
def test_names_in_another_order(rule: Rule, weights_of: str) -> None:
    state, values = saved(rule, "training")[0], saved(rule, weights_of)[1]
    pairs = [(name, value.clone().requires_grad_()) for name, value in zip(NAMES, values, strict=True)][::-1]
    optimizer = Optimizer(pairs, rule)
    optimizer.load_state_dict(state)
    follow(optimizer, rule)


@each_rule
def test_strangers_are_refused_and_the_optimizer_says_what_to_do(rule: Rule) -> None:
    strangers = [value + 1 for value in saved(rule, "training")[1]]
    optimizer = resumed(rule, saved(rule, "training")[0], strangers)
    message = (
        r"^the model's weights are neither those that this optimizer state was saved with nor their average \(they "
        r"differ by up to \d[\d.]*\); load the weights of the same checkpoint, or, to go on with these, delete "
        r"'fingerprint' from its param_groups$"
    )
    for use in (optimizer.eval, optimizer.train, lambda: go(optimizer, 4, 4), lambda: optimizer.averaged().__enter__()):
        with pytest.raises(ValueError, match=message):
            use()
    assert_bits(now(optimizer), strangers)
    assert {optimizer.state[p]["step"] for p in parameters_of(optimizer)} == {3}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["training", "averaged"])
@each_rule
def test_weights_that_are_not_finite_are_known_again(rule: Rule, mode: str, number: float) -> None:
    optimizer = go(made(rule), 1, 3)
    if mode == "averaged":
        optimizer.eval()
    with torch.no_grad():
        parameters_of(optimizer)[0][0, 0] = number
    state, values = copy.deepcopy(optimizer.state_dict()), now(optimizer)
    loaded = resumed(rule, state, values)
    with loaded.averaged():
        pass
    assert loaded.param_groups[0]["holds"] == mode
    for actual, expected in zip(now(loaded), values, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    sound = resumed(rule, state, [value.nan_to_num(0.0, 0.0, 0.0) for value in values])
    with pytest.raises(ValueError, match=r"neither those .* \(they differ by up to inf\)"):
        sound.step()


@each_rule
def test_strangers_may_be_kept_on_demand(rule: Rule) -> None:
    state, values = saved(rule, "training")
    for group in state["param_groups"]:
        del group["fingerprint"]
    optimizer = resumed(rule, state, [value + 1 for value in values])
    go(optimizer, 4, 4)
    assert optimizer.state[parameters_of(optimizer)[0]]["step"] == 4


@each_rule
def test_strangers_are_refused_until_the_right_weights_come(rule: Rule) -> None:
    state, values = saved(rule, "training")
    optimizer = resumed(rule, state, [value + 1 for value in values])
    with pytest.raises(ValueError, match="neither those that this optimizer state was saved with"):
        optimizer.step()
    with torch.no_grad():
        for p, value in zip(parameters_of(optimizer), values, strict=True):
            p.copy_(value)
    assert_bits(now(go(optimizer, 4, 5)), now(go(made(rule), 1, 5)))


@each_rule
def test_a_state_before_the_first_step_fits_any_weights(rule: Rule) -> None:
    state = made(rule).state_dict()
    values = [value.detach() + 1 for value in weights()]
    optimizer = resumed(rule, state, values)
    expected = made(rule, [value.clone().requires_grad_() for value in values])
    assert_bits(now(go(optimizer, 1, 2)), now(go(expected, 1, 2)))


@each_rule
def test_a_state_in_which_few_parameters_had_gradients(rule: Rule) -> None:
    optimizer = made(rule)
    p = parameters_of(optimizer)[3]
    for step in (1, 2, 3):
        p.grad = torch.cos(3 * p.detach() + step)
        optimizer.step()
    state, expected = copy.deepcopy(optimizer.state_dict()), now(optimizer)
    optimizer.eval()
    loaded = resumed(rule, state, now(optimizer))
    loaded.train()
    assert_near(now(loaded), expected)


# Between loading and the first step


@pytest.mark.parametrize("names_in", ["the file", "the optimizer"])
@each_rule
def test_names_on_one_side_only(rule: Rule, names_in: str) -> None:
    # `weight` comes before `bias`, as in every linear layer: the names' order is not the parameters'.
    def model(values: list[Tensor]) -> list[tuple[str, Tensor]]:
        return list(
            zip(("weight", "scale", "empty", "bias"), [v.clone().requires_grad_() for v in values], strict=True)
        )

    pairs = model([p.detach() for p in weights()])
    saving = Optimizer(pairs if names_in == "the file" else [p for _, p in pairs], rule)
    go(saving, 1, 3)
    pairs = model([p.detach() for p in parameters_of(saving)])
    loading = Optimizer([p for _, p in pairs] if names_in == "the file" else pairs, rule)
    loading.load_state_dict(copy.deepcopy(saving.state_dict()))
    go(loading, 4, 5)
    assert_bits(now(loading), now(go(saving, 4, 5)))


@pytest.mark.parametrize("way", ["saved again", "deepcopy", "pickle"])
@each_rule
def test_what_is_not_yet_recognised_stays_so(rule: Rule, way: str) -> None:
    # Averaged weights under a state saved in training, and on to a second checkpoint, or a copy, before any step.
    optimizer = resumed(rule, saved(rule, "training")[0], saved(rule, "averaged")[1])
    if way == "saved again":
        twin = resumed(rule, copy.deepcopy(optimizer.state_dict()), now(optimizer))
    elif way == "deepcopy":
        twin = copy.deepcopy(optimizer)
    else:
        twin = pickle.loads(pickle.dumps(optimizer))
    twin.train()
    assert_near(now(twin), now(go(made(rule), 1, 3)))


@each_rule
def test_a_second_load_takes_the_place_of_the_first(rule: Rule) -> None:
    state, values = saved(rule, "training")
    optimizer = resumed(rule, saved(rule, "training", steps=5)[0], values)
    optimizer.load_state_dict(state)
    assert_bits(now(go(optimizer, 4, 5)), now(go(made(rule), 1, 5)))


@pytest.mark.parametrize("state_of", ["training", "averaged"])
@pytest.mark.parametrize("inner", [Adafactor(), CAME()], ids=lambda rule: type(rule).__name__)
def test_rules_that_see_vectors_otherwise_than_matrices(inner: Rule, state_of: str) -> None:
    rule = stepwell.ema(inner, decay=0.5)
    optimizer = resumed(rule, *saved(rule, state_of))
    optimizer.train()
    assert_bits(now(go(optimizer, 4, 5)), now(go(made(rule), 1, 5)))


def test_a_flag_changed_between_loading_and_the_first_step() -> None:
    rule = stepwell.ema(SGD(lr=0.1))
    optimizer = resumed(rule, *saved(rule, "training"))
    optimizer.param_groups[0]["momentum"] = 0.5
    assert now(go(optimizer, 4, 4))
