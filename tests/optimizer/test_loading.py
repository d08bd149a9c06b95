"""State dicts, ours and torch's, to and fro; what cannot be loaded, in which words, and that nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell import Optimizer, Rule
from stepwell.rules import SGD, Adafactor, Adam, AdamW, Lion, Muon, RMSprop, ScheduleFreeSGD, Shampoo, SignSGD

NAMES = ("a", "b", "c")
SHAPES = ((2, 3), (4,), ())


def weights(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in SHAPES]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def go(optimizer: Any, steps: int) -> Any:
    for _ in range(steps):
        for p in parameters_of(optimizer):
            p.grad = torch.cos(3 * p.detach())
        optimizer.step()
    return optimizer


def named(parameters: list[Tensor] | None = None) -> list[tuple[str, Tensor]]:
    return list(zip(NAMES, parameters or weights(), strict=True))


def groups() -> list[dict[str, Any]]:
    first, second, third = weights()
    return [{"params": [("a", first), ("b", second)]}, {"params": [("c", third)], "name": "scalars", "lr": 0.2}]


# To torch and back

PEERS: dict[str, Callable[[Any, Any], torch.optim.Optimizer]] = {
    "AdamW": lambda package, params: package.AdamW(params, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2),
    "AdamW amsgrad": lambda package, params: package.AdamW(params, lr=0.1, amsgrad=True),
    "Adam": lambda package, params: package.Adam(params, lr=0.1, weight_decay=0.2),
    "SGD": lambda package, params: package.SGD(params, lr=0.1, weight_decay=0.2),
    "SGD momentum": lambda package, params: package.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "SGD dampening": lambda package, params: package.SGD(params, lr=0.1, momentum=0.9, dampening=0.3),
}
DEFAULTS: dict[str, Callable[[Any, Any], torch.optim.Optimizer]] = {
    "AdamW": lambda package, params: package.AdamW(params),
    "Adam": lambda package, params: package.Adam(params),
    "SGD": lambda package, params: package.SGD(params),
}


@pytest.mark.parametrize("ours_first", [False, True], ids=["from torch", "to torch"])
@pytest.mark.parametrize("peer", PEERS)
def test_a_training_moves_to_torch_and_back(peer: str, ours_first: bool) -> None:
    here, there = (stepwell, torch.optim) if ours_first else (torch.optim, stepwell)
    uninterrupted = go(PEERS[peer](torch.optim, weights()), 6)
    first = go(PEERS[peer](here, weights()), 3)
    second = DEFAULTS[peer.split()[0]](there, [p.detach().clone().requires_grad_() for p in parameters_of(first)])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    go(second, 3)
    for a, e in zip(parameters_of(second), parameters_of(uninterrupted), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


def test_torchs_flags_for_how_to_run_are_left_out() -> None:
    peer = go(torch.optim.AdamW(weights(), lr=0.25, foreach=True, capturable=False), 1)
    optimizer = stepwell.AdamW(weights(), engine="reference", clip_norm=2.0)
    optimizer.load_state_dict(peer.state_dict())
    group = optimizer.param_groups[0]
    assert not {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"} & set(group)
    assert (group["lr"], group["rule"], group["decay"]) == (0.25, "AdamW", "decoupled")
    assert (optimizer.engine, optimizer.clip_norm) == ("reference", 2.0)


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent", "proximal"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "NAdam", "RAdam"])
def test_our_kinds_of_decay_come_back(name: str, decay: str) -> None:
    saved = getattr(stepwell, name)(weights(), decay=decay).state_dict()
    again = getattr(stepwell, name)(weights())
    again.load_state_dict(saved)
    assert again.param_groups[0]["decay"] == decay


def test_torchs_adam_says_by_a_flag_how_it_decays() -> None:
    peer = go(torch.optim.Adam(weights(), decoupled_weight_decay=True), 1)
    optimizer = stepwell.Adam(weights())
    optimizer.load_state_dict(peer.state_dict())
    assert optimizer.param_groups[0]["decay"] == "decoupled"


def test_how_to_run_stays_as_it_is_here() -> None:
    saved = go(Optimizer(weights(), AdamW(), engine="foreach", clip_norm=1.0, on_nonfinite="raise"), 1).state_dict()
    optimizer = Optimizer(weights(), AdamW(), engine="reference", clip_norm=2.0, on_nonfinite="skip")
    optimizer.load_state_dict(saved)
    assert (optimizer.engine, optimizer.clip_norm, optimizer.on_nonfinite) == ("reference", 2.0, "skip")


# What a load takes over


def test_values_and_notes_are_taken_over() -> None:
    saved = go(Optimizer(groups(), AdamW(lr=0.5)), 1)
    saved.param_groups[1].update(weight_decay=0.75, initial_lr=0.3, why="no decay")
    optimizer = Optimizer(groups(), AdamW(lr=0.1))
    optimizer.load_state_dict(saved.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.2]
    second = optimizer.param_groups[1]
    assert (second["weight_decay"], second["initial_lr"], second["why"]) == (0.75, 0.3, "no decay")
    assert second["name"] == "scalars"
    assert {p: state["step"] for p, state in optimizer.state.items()} == dict.fromkeys(parameters_of(optimizer), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_slots_keep_dtype_device_and_numbers(dtype: torch.dtype) -> None:
    optimizer = Optimizer(weights(torch.float32), AdamW())
    state_dict = go(Optimizer(weights(torch.float32), AdamW()), 2).state_dict()
    for state in state_dict["state"].values():
        state.update({slot: value.to(dtype) for slot, value in state.items() if isinstance(value, Tensor)})
    optimizer.load_state_dict(state_dict)
    for index, p in enumerate(parameters_of(optimizer)):
        for slot in ("exp_avg", "exp_avg_sq"):
            loaded, saved = optimizer.state[p][slot], state_dict["state"][index][slot]
            assert (loaded.dtype, loaded.device) == (dtype, p.device)
            assert torch.equal(loaded, saved)
            assert loaded.data_ptr() != saved.data_ptr()


def test_slots_come_to_the_parameters_device() -> None:
    state_dict = go(Optimizer(weights(), AdamW()), 1).state_dict()
    elsewhere = [torch.empty(shape, device="meta", requires_grad=True) for shape in SHAPES]
    optimizer = Optimizer(elsewhere, AdamW())
    optimizer.load_state_dict(state_dict)
    assert {optimizer.state[p]["exp_avg"].device.type for p in elsewhere} == {"meta"}


def test_parameters_are_matched_by_name_in_any_order() -> None:
    first = go(Optimizer(named(), AdamW(lr=0.1)), 2)
    turned = [(name, p.detach().clone().requires_grad_()) for name, p in named(parameters_of(first))][::-1]
    second = Optimizer(turned, AdamW(lr=0.1))
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["param_names"] == ["c", "b", "a"]  # the order here, not the file's
    go(first, 2)
    go(second, 2)
    for a, e in zip(parameters_of(second)[::-1], parameters_of(first), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("names_in", ["the file", "the optimizer"])
def test_without_names_on_both_sides_the_order_counts(names_in: str) -> None:
    with_names, without = Optimizer(named(), AdamW()), Optimizer(weights(), AdamW())
    saving, loading = (with_names, without) if names_in == "the file" else (without, with_names)
    state_dict = go(saving, 1).state_dict()
    loading.load_state_dict(state_dict)
    for index, p in enumerate(parameters_of(loading)):
        assert torch.equal(loading.state[p]["exp_avg"], state_dict["state"][index]["exp_avg"])
    assert ("param_names" in loading.param_groups[0]) == (names_in == "the optimizer")


def test_parameters_that_had_no_gradient_have_no_state() -> None:
    saving = Optimizer(weights(), AdamW())
    first = parameters_of(saving)[0]
    first.grad = torch.ones_like(first)
    saving.step()
    loading = go(Optimizer(weights(), AdamW()), 3)
    loading.load_state_dict(saving.state_dict())
    assert [bool(loading.state.get(p)) for p in parameters_of(loading)] == [True, False, False]


# What cannot be loaded

Change = Callable[[dict[str, Any]], Any]

BROKEN: dict[str, tuple[type[Exception], str, Change]] = {
    "no state": (
        ValueError,
        r"^this is no optimizer's state dict: it has no 'state', only \['param_groups'\]$",
        lambda d: d.pop("state"),
    ),
    "groups of another kind": (
        ValueError,
        r"^this is no optimizer's state dict: its 'param_groups' is a NoneType$",
        lambda d: d.update(param_groups=None),
    ),
    "state of another kind": (
        ValueError,
        r"^this is no optimizer's state dict: its 'state' is a list$",
        lambda d: d.update(state=[]),
    ),
    "a group without parameters": (
        ValueError,
        r"^this is no optimizer's state dict: its group 0 has no 'params'$",
        lambda d: d["param_groups"][0].pop("params"),
    ),
    "no groups": (
        ValueError,
        r"^this is no optimizer's state dict: it has no 'param_groups', only \['state'\]$",
        lambda d: d.pop("param_groups"),
    ),
    "more groups": (
        ValueError,
        r"^the state dict has 3 parameter groups, this optimizer has 2$",
        lambda d: d["param_groups"].append({"params": []}),
    ),
    "another rule": (
        ValueError,
        r"^the state was saved by Lion, the rule here is AdamW \(group 'scalars' of the state dict\)$",
        lambda d: d["param_groups"][1].update(rule="Lion"),
    ),
    "other names": (
        ValueError,
        r"^group 0 of the state dict holds other parameters: missing 'a', unexpected 'x'$",
        lambda d: d["param_groups"][0].update(param_names=["x", "b"]),
    ),
    "fewer parameters, named": (
        ValueError,
        r"^group 0 of the state dict holds other parameters: missing 'b', unexpected none$",
        lambda d: d["param_groups"][0].update(param_names=["a"], params=[0]),
    ),
    "fewer parameters": (
        ValueError,
        r"^group 0 of the state dict has 1 parameters, this optimizer's has 2$",
        lambda d: [d["param_groups"][0].update(params=[0]), *(group.pop("param_names") for group in d["param_groups"])],
    ),
    "another shape": (
        ValueError,
        r"^the saved slot 'exp_avg' of parameter 'b' has shape \(2, 2\), the parameter shape \(4,\)$",
        lambda d: d["state"][1].update(exp_avg=torch.zeros(2, 2)),
    ),
    "a number for a slot": (
        ValueError,
        r"^the saved slot 'exp_avg_sq' of parameter 'b' has a float, the parameter shape \(4,\)$",
        lambda d: d["state"][1].update(exp_avg_sq=1.0),
    ),
    "an unknown slot": (
        ValueError,
        r"^the saved state of parameter 'c' has the slot 'momentum_buffer', AdamW has \['exp_avg', 'exp_avg_sq'\]$",
        lambda d: d["state"][2].update(momentum_buffer=torch.zeros(())),
    ),
    "a slot of a flag that is off, in another shape": (
        ValueError,
        r"^the saved slot 'max_exp_avg_sq' of parameter 'a' has shape \(3, 3\), the parameter shape \(2, 3\)$",
        lambda d: d["state"][0].update(max_exp_avg_sq=torch.zeros(3, 3)),
    ),
    "a negative rate": (
        ValueError,
        r"^lr must be at least 0, got -1.0 \(group 'scalars' of the state dict\)$",
        lambda d: d["param_groups"][1].update(lr=-1.0),
    ),
    "a beta out of range": (
        ValueError,
        r"^betas\[1\] must be in \[0, 1\), got 1.0 \(group 0 of the state dict\)$",
        lambda d: d["param_groups"][0].update(betas=(0.9, 1.0)),
    ),
    "a flag of the wrong type": (
        TypeError,
        r"^amsgrad must be True or False, got 'no' \(group 0 of the state dict\)$",
        lambda d: d["param_groups"][0].update(amsgrad="no"),
    ),
    "torch's state of another rule": (
        TypeError,
        r"^unknown hyper-parameter 'momentum' for AdamW \(group 0 of the state dict\)$",
        lambda d: d.update(torch.optim.SGD(groups_for_torch(), lr=0.1).state_dict()),
    ),
}


def groups_for_torch() -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key in ("params", "lr")} for group in groups()]


def snapshot(optimizer: Optimizer) -> Any:
    """All that a load may change, in copies; tensors as lists, so that `==` compares."""
    state = {
        index: {name: value.tolist() if isinstance(value, Tensor) else value for name, value in state.items()}
        for index, state in enumerate(optimizer.state.get(p, {}) for p in parameters_of(optimizer))
    }
    values = [{key: copy.copy(value) for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    return [p.tolist() for p in parameters_of(optimizer)], state, values


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_loaded_changes_nothing(what: str) -> None:
    error, message, change = BROKEN[what]
    optimizer, uninterrupted = (go(Optimizer(groups(), AdamW(lr=0.1)), 2) for _ in range(2))
    state_dict = copy.deepcopy(go(Optimizer(groups(), AdamW(lr=0.3)), 3).state_dict())
    change(state_dict)
    before = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state_dict)
    assert snapshot(optimizer) == before
    go(optimizer, 2)
    assert snapshot(optimizer) == snapshot(go(uninterrupted, 2))


def test_long_lists_of_names_are_cut() -> None:
    def optimizer(prefix: str) -> Optimizer:
        return Optimizer([(f"{prefix}{i}", torch.ones(1, requires_grad=True)) for i in range(5)], SGD())

    with pytest.raises(
        ValueError,
        match=r"^group 0 of the state dict holds other parameters: missing 'x0', 'x1', 'x2' and 2 more, unexpected "
        r"'y0', 'y1', 'y2' and 2 more$",
    ):
        optimizer("x").load_state_dict(optimizer("y").state_dict())


def test_values_that_do_not_go_together_name_their_group() -> None:
    optimizer = stepwell.SGD(weights())
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["nesterov"] = True
    with pytest.raises(ValueError, match=r"^nesterov=True needs momentum above 0 and dampening 0, .*\(group 0"):
        optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[0]["nesterov"] is False


def test_as_many_names_as_parameters_in_the_file() -> None:
    optimizer = Optimizer(named(), AdamW())
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["param_names"] = ["a", "b"]
    with pytest.raises(ValueError, match=r"group 0 of the state dict .*names"):
        optimizer.load_state_dict(state_dict)


@pytest.mark.parametrize("given", [None, 3, [1, 2], "state.pt"])
def test_what_is_no_state_dict_at_all(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"state dict"):
        Optimizer(weights(), AdamW()).load_state_dict(given)


def test_a_slot_holds_floating_point_numbers() -> None:
    optimizer = Optimizer(weights(), AdamW())
    state_dict = go(Optimizer(weights(), AdamW()), 1).state_dict()
    state_dict["state"][1]["exp_avg"] = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"'exp_avg' of parameter 1 of group 0 .*int64"):
        optimizer.load_state_dict(state_dict)


def test_scalar_slots_come_back_as_numbers() -> None:
    saved = go(Optimizer(weights(), ScheduleFreeSGD(lr=0.5)), 2)
    state_dict = saved.state_dict()
    for state in state_dict["state"].values():
        state.update(weight_sum=torch.tensor(state["weight_sum"]), step=torch.tensor(2.0))  # as other tools keep them
    optimizer = Optimizer([p.detach().clone().requires_grad_() for p in parameters_of(saved)], ScheduleFreeSGD())
    optimizer.load_state_dict(state_dict)
    for p in parameters_of(optimizer):
        assert (type(optimizer.state[p]["weight_sum"]), type(optimizer.state[p]["step"])) == (float, int)
        assert (optimizer.state[p]["weight_sum"], optimizer.state[p]["step"]) == (0.5, 2)


def test_each_group_is_loaded_by_its_own_rule() -> None:
    def made() -> Optimizer:
        matrix, vector, scalar = weights()
        rest = {"params": [vector], "rule": Lion(lr=0.1)}
        return Optimizer([{"params": [matrix], "rule": Muon(lr=0.1)}, rest, {"params": [scalar]}], AdamW(lr=0.1))

    first, second = go(made(), 2), made()
    second.load_state_dict(first.state_dict())
    slots = [sorted(set(second.state[p]) - {"step"}) for p in parameters_of(second)]
    assert slots == [["momentum_buffer"], ["exp_avg"], ["exp_avg", "exp_avg_sq"]]


def test_a_rate_in_a_tensor_is_ones_own() -> None:
    first, second = (stepwell.AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.1)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    second.param_groups[0]["lr"].fill_(0.5)
    assert float(first.param_groups[0]["lr"]) == pytest.approx(0.1)


# What is switched off in mid-training leaves its slots behind

SWITCHED_OFF: dict[str, tuple[Rule, dict[str, Any]]] = {
    "SGD": (SGD(lr=0.1, momentum=0.9), {"momentum": 0.0}),
    "SignSGD": (SignSGD(lr=0.1, momentum=0.9), {"momentum": 0.0}),
    "Adam": (Adam(lr=0.1, amsgrad=True), {"amsgrad": False}),
    "RMSprop": (RMSprop(lr=0.1, momentum=0.9, centered=True), {"momentum": 0.0, "centered": False}),
    "Adafactor": (Adafactor(beta1=0.9), {"beta1": None}),
    "Shampoo": (Shampoo(momentum=0.9, precondition_frequency=2), {"precondition_frequency": 1, "momentum": 0.0}),
    "wrapped": (stepwell.cautious(stepwell.ema(SGD(lr=0.1, momentum=0.9))), {"momentum": 0.0}),
}


@pytest.mark.parametrize("state_dtype", [None, "8bit"])
@pytest.mark.parametrize("what", SWITCHED_OFF)
def test_what_was_switched_off_loads_and_goes_on_where_it_is_switched_on(what: str, state_dtype: Any) -> None:
    rule, off = SWITCHED_OFF[what]
    on = {name: getattr(rule, name) for name in off}

    def made() -> Optimizer:
        matrix = torch.linspace(-1.0, 1.0, 4096).reshape(64, 64).requires_grad_()
        vectors = [] if rule.acts_on == "matrices" else [torch.ones(3, requires_grad=True)]
        return Optimizer([matrix, *vectors], rule, state_dtype=state_dtype)

    saved, loading = go(made(), 2), made()
    saved.param_groups[0].update(off)
    go(saved, 1)
    for p, q in zip(parameters_of(saved), parameters_of(loading), strict=True):
        q.data.copy_(p.data)
    loading.load_state_dict(saved.state_dict())
    for optimizer in (saved, loading):
        go(optimizer, 1).param_groups[0].update(on)
        go(optimizer, 2)
    for p, q in zip(parameters_of(saved), parameters_of(loading), strict=True):
        assert torch.equal(p, q)


def test_torchs_optimizer_may_have_switched_something_off() -> None:
    theirs = go(torch.optim.SGD(weights(), lr=0.1, momentum=0.9), 2)
    theirs.param_groups[0]["momentum"] = 0
    ours = Optimizer(weights(), SGD(momentum=0.9))
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["momentum"] == 0
    for p, q in zip(parameters_of(theirs), parameters_of(ours), strict=True):
        assert torch.equal(theirs.state[p]["momentum_buffer"], ours.state[q]["momentum_buffer"])


def test_what_another_package_saved_in_place_of_a_rules_own_slots_is_refused() -> None:
    weight = torch.ones(2, 3).requires_grad_()
    theirs, ours = torch.optim.Adafactor([weight]), Optimizer([weight], Adafactor(factored=False))
    with pytest.raises(ValueError, match=r"has the slot 'row_var', Adafactor has \['variance'\]$"):
        ours.load_state_dict(go(theirs, 1).state_dict())
