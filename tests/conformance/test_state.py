"""State: saved, loaded, copied, pickled; training goes on with the same bits, and a failed load changes nothing."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import CASES, PLAIN_CASES, Case, assert_near, assert_same_bits, rows, rows_and_engines
from conformance.training import copies, numbers_of, parameters_of, slots_of, train, trained, weights
from stepwell import Optimizer


def _saved_and_loaded(state: Any, folder: Path) -> Any:
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize("way", ["in memory", "copied", "file"])
@rows_and_engines(CASES)
def test_training_goes_on_with_the_same_bits(case: Case, engine: str, way: str, tmp_path: Path) -> None:
    through: dict[str, Callable[[Any], Any]] = {
        "in memory": lambda state: state,
        "copied": copy.deepcopy,
        "file": lambda state: _saved_and_loaded(state, tmp_path),
    }
    optimizer = trained(case, engine, steps=2)
    fresh = [p.clone().requires_grad_() for p in parameters_of(optimizer)]
    resumed = Optimizer(fresh, type(case.rule)(), engine=engine)
    resumed.load_state_dict(through[way](optimizer.state_dict()))
    assert_same_bits(slots_of(resumed), slots_of(optimizer))
    assert numbers_of(resumed) == numbers_of(optimizer)
    for name, value in case.rule.values().items():
        assert resumed.param_groups[0][name] == value
    train(optimizer, optimizer.param_groups[0]["params"], first=3)
    train(resumed, fresh, first=3)
    assert_same_bits(parameters_of(resumed), parameters_of(optimizer))
    assert_same_bits(slots_of(resumed), slots_of(optimizer))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
@rows_and_engines(CASES)
def test_the_optimizer_itself_can_be_copied(case: Case, engine: str, way: str) -> None:
    def through_torch(optimizer: Optimizer) -> Optimizer:
        buffer = io.BytesIO()
        torch.save(optimizer, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    ways: dict[str, Callable[[Optimizer], Optimizer]] = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
        "torch.save": through_torch,
    }
    optimizer = trained(case, engine, steps=2, clip_norm=2.0, on_nonfinite="skip")
    twin = ways[way](optimizer)
    assert (twin.engine, twin.clip_norm, twin.on_nonfinite) == (engine, 2.0, "skip")
    theirs = twin.param_groups[0]["params"]
    assert not {id(p) for p in theirs} & {id(p) for p in optimizer.param_groups[0]["params"]}
    train(optimizer, optimizer.param_groups[0]["params"], first=3)
    train(twin, theirs, first=3)
    assert_same_bits(parameters_of(twin), parameters_of(optimizer))
    assert_same_bits(slots_of(twin), slots_of(optimizer))


@rows_and_engines(CASES)
def test_one_engine_goes_on_where_another_stopped(case: Case, engine: str) -> None:
    first = trained(case, case.engines[-1], torch.float64, steps=2)
    fresh = [p.clone().requires_grad_() for p in parameters_of(first)]
    second = Optimizer(fresh, case.rule, engine=engine)
    second.load_state_dict(first.state_dict())
    assert second.engine == engine
    train(second, fresh, first=3)
    assert_near(parameters_of(second), parameters_of(trained(case, "reference", torch.float64)), 1e-13)


@rows(CASES)
def test_the_state_dict_is_tensors_and_plain_values(case: Case) -> None:
    def check(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                assert type(key) in (str, int), path
                check(each, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            assert type(value) in (list, tuple), path
            for index, each in enumerate(value):
                check(each, f"{path}[{index}]")
        else:
            assert value is None or type(value) in (bool, int, float, str, Tensor), f"{path} is a {type(value)}"

    state_dict = trained(case, "auto").state_dict()
    assert set(state_dict) == {"state", "param_groups"}
    check(state_dict, "state_dict")
    for shape, state in zip(case.shapes, state_dict["state"].values(), strict=True):
        assert set(state) == {"step", *(slot.name for slot in case.rule.fit(shape).slot_list())}


@rows_and_engines(CASES)
def test_loading_copies(case: Case, engine: str) -> None:
    # Training on after a load changes neither the state dict nor the optimizer that it came from.
    optimizer = trained(case, engine, steps=2)
    state_dict = optimizer.state_dict()
    before = copies(slots_of(optimizer)), numbers_of(optimizer)
    fresh = [p.clone().requires_grad_() for p in parameters_of(optimizer)]
    resumed = Optimizer(fresh, case.rule, engine=engine)
    resumed.load_state_dict(state_dict)
    train(resumed, fresh, first=3)
    assert_same_bits(slots_of(optimizer), before[0])
    assert numbers_of(optimizer) == before[1]


@pytest.mark.parametrize("kept_in", [torch.float32, torch.float64], ids=str)
@rows_and_engines(CASES, fused_variants=False)
def test_slots_keep_their_dtype(case: Case, engine: str, kept_in: torch.dtype) -> None:
    # bfloat16 weights with wider state: loading must not round the state to the weights' dtype.
    optimizer = trained(case, engine, torch.bfloat16, steps=1)
    wide = [p.clone().requires_grad_() for p in parameters_of(optimizer)]
    state_dict = optimizer.state_dict()
    for state in state_dict["state"].values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                state[name] = value.to(kept_in) + 1e-4
    resumed = Optimizer(wide, case.rule, engine=engine)
    resumed.load_state_dict(state_dict)
    for index, p in enumerate(wide):
        for name, value in state_dict["state"].get(index, {}).items():
            if isinstance(value, Tensor):
                assert resumed.state[p][name].dtype == kept_in
                assert_same_bits([resumed.state[p][name]], [value])
    train(resumed, wide, first=2, last=2)
    assert {slot.dtype for slot in slots_of(resumed)} <= {kept_in}
    assert {p.dtype for p in wide} == {torch.bfloat16}


@rows_and_engines(PLAIN_CASES)
def test_state_dict_before_the_first_step(case: Case, engine: str) -> None:
    optimizer = trained(case, engine, steps=0)
    fresh = weights(case)
    resumed = Optimizer(fresh, case.rule, engine=engine)
    resumed.load_state_dict(optimizer.state_dict())
    train(resumed, fresh)
    assert_same_bits(parameters_of(resumed), parameters_of(trained(case, engine)))


# What cannot be loaded, and what a failed load leaves behind.


def _without_state(state_dict: dict[str, Any]) -> None:
    del state_dict["state"]


def _one_group_more(state_dict: dict[str, Any]) -> None:
    state_dict["param_groups"].append(state_dict["param_groups"][0])


def _one_parameter_less(state_dict: dict[str, Any]) -> None:
    state_dict["param_groups"][0]["params"].pop()


def _another_rule(state_dict: dict[str, Any]) -> None:
    state_dict["param_groups"][0]["rule"] = "Sgdd"


def _negative_rate(state_dict: dict[str, Any]) -> None:
    state_dict["param_groups"][0]["lr"] = -1.0


BROKEN = {
    r"^this is no optimizer's state dict: it has no 'state', only \['param_groups'\]$": _without_state,
    r"^the state dict has 2 parameter groups, this optimizer has 1$": _one_group_more,
    r"^group 0 of the state dict has 5 parameters, this optimizer's has 6$": _one_parameter_less,
    r"^the state was saved by Sgdd, the rule here is .+ \(group 0 of the state dict\)$": _another_rule,
    r"^lr must be at least 0, got -1.0 \(group 0 of the state dict\)$": _negative_rate,
}


def _assert_refused(optimizer: Optimizer, state_dict: dict[str, Any], message: str) -> None:
    before = copies(parameters_of(optimizer)), copies(slots_of(optimizer)), numbers_of(optimizer)
    groups = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state_dict)
    assert_same_bits(parameters_of(optimizer), before[0])
    assert_same_bits(slots_of(optimizer), before[1])
    assert numbers_of(optimizer) == before[2]
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups
    train(optimizer, optimizer.param_groups[0]["params"], first=3)  # and it goes on


@pytest.mark.parametrize("message", BROKEN)
@rows(PLAIN_CASES)
def test_a_failed_load_changes_nothing(case: Case, message: str) -> None:
    optimizer = trained(case, "auto", steps=2)
    state_dict = copy.deepcopy(trained(case, "auto", steps=3).state_dict())
    BROKEN[message](state_dict)
    _assert_refused(optimizer, state_dict, message)
    assert_same_bits(parameters_of(optimizer), parameters_of(trained(case, "auto")))


@rows([case for case in CASES if any(not slot.scalar for slot in case.rule.fit(case.shapes[3]).slot_list())])
def test_slots_that_do_not_fit_are_refused(case: Case) -> None:
    shape = case.shapes[3]
    fitted = case.rule.fit(shape)
    declared = next(slot for slot in fitted.slot_list() if not slot.scalar)
    slot = declared.name
    needed = "" if declared.shape is None else f", which needs {fitted.slot_shape(declared, shape)}"
    state_dict = copy.deepcopy(trained(case, "auto", steps=3).state_dict())
    for bad, found in ((torch.zeros(2, 9), r"shape \(2, 9\)"), (1.0, "a float")):
        state_dict["state"][3][slot] = bad
        message = rf"^the saved slot '{slot}' of parameter 3 of group 0 has {found}, the parameter shape "
        _assert_refused(trained(case, "auto", steps=2), state_dict, message + re.escape(f"{shape}{needed}") + "$")
    state_dict["state"][3] = {"step": 1, "ghost": torch.zeros(shape)}
    name = re.escape(type(case.rule).__name__)
    message = rf"^the saved state of parameter 3 of group 0 has the slot 'ghost', {name} has \["
    _assert_refused(trained(case, "auto", steps=2), state_dict, message)


@rows(PLAIN_CASES)
def test_parameters_are_matched_by_name(case: Case) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    parameters = weights(case)
    optimizer = Optimizer(list(zip(names, parameters, strict=True)), case.rule)
    train(optimizer, parameters, last=2)
    turned = [(name, p.detach().clone().requires_grad_()) for name, p in zip(names, parameters, strict=True)][::-1]
    resumed = Optimizer(turned, case.rule)
    resumed.load_state_dict(optimizer.state_dict())
    by_name = dict(turned)
    train(optimizer, parameters, first=3)
    train(resumed, [by_name[name] for name in names], first=3)
    assert_same_bits([by_name[name].detach() for name in names], parameters_of(optimizer))

    others = Optimizer([(name.replace("b", "x"), p) for name, p in turned], case.rule)
    with pytest.raises(
        ValueError, match=r"^group 0 of the state dict holds other parameters: missing 'x', unexpected 'b'$"
    ):
        others.load_state_dict(optimizer.state_dict())
