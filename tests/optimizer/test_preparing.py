"""Weights and state that somebody has replaced, between two steps, behind the same objects."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stepwell
from stepwell import Rule, rules
from stepwell.codecs import Storage
from stepwell.optimizer import preparing
from stepwell.optimizer.preparing import prepare
from stepwell.rules import AdamW
from stepwell.rules.registry import rule_class

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


def stepped(optimizer: stepwell.Optimizer, p: torch.Tensor, *, times: int = 1) -> torch.Tensor:
    for _ in range(times):
        p.grad = torch.linspace(-1, 1, p.numel())
        optimizer.step()
    return p.detach().clone()


def made(engine: Any) -> tuple[stepwell.Optimizer, torch.Tensor]:
    p = torch.nn.Parameter(torch.ones(1000))
    return stepwell.AdamW([p], lr=0.1, engine=engine), p


@ENGINES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_slot_with_other_data(engine: Any, dtype: torch.dtype) -> None:
    """What a slot's `.data` was set to is what the next step goes on with, in whatever dtype."""
    (optimizer, p), (plain, expected) = made(engine), made(engine)
    stepped(optimizer, p)
    stepped(plain, expected)
    slot = optimizer.state[p]["exp_avg"]
    slot.data = torch.full((1000,), 0.5, dtype=dtype)
    plain.state[expected]["exp_avg"] = torch.full((1000,), 0.5)
    torch.testing.assert_close(stepped(optimizer, p), stepped(plain, expected), rtol=1e-6, atol=1e-6)
    assert optimizer.state[p]["exp_avg"].dtype == dtype  # as it was found, where the group does not say


@ENGINES
def test_a_complex_slot_with_other_data(engine: Any) -> None:
    found = []
    for replaced in (False, True):
        p = torch.nn.Parameter(torch.ones(1000, dtype=torch.complex64))
        optimizer = stepwell.AdamW([p], lr=0.1, engine=engine)
        for _ in range(2):
            p.grad = torch.linspace(-1, 1, 1000) * torch.ones(1000, dtype=torch.complex64)
            optimizer.step()
            if replaced:
                slot = optimizer.state[p]["exp_avg"]
                slot.data = slot.data.to(torch.complex128)
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@ENGINES
def test_weights_with_other_data(engine: Any) -> None:
    (optimizer, p), (plain, expected) = made(engine), made(engine)
    stepped(optimizer, p)
    stepped(plain, expected)
    p.data = p.data + 1
    with torch.no_grad():
        expected += 1
    assert torch.equal(stepped(optimizer, p), stepped(plain, expected))


@ENGINES
def test_weights_that_lie_otherwise_at_the_same_place(engine: Any) -> None:
    numbers = torch.arange(9.0).reshape(3, 3)
    turned, plain = (torch.nn.Parameter(numbers.clone()) for _ in range(2))
    found = []
    for p in (turned, plain):
        optimizer = stepwell.AdamW([p], lr=0.1, engine=engine)
        p.grad = numbers - 4
        optimizer.step()
        p.data = p.data.t() if p is turned else p.data.t().contiguous()
        p.grad = numbers - 4
        optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@ENGINES
def test_weights_whose_dtype_changes_in_the_same_memory(engine: Any) -> None:
    p = torch.nn.Parameter(torch.ones(1000, dtype=torch.float16))
    optimizer = stepwell.SGD([p], lr=0.5, engine=engine)
    for dtype in (torch.float16, torch.bfloat16):
        p.data = p.data.view(dtype).fill_(1.0)
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert set(p.tolist()) == {0.5}


@ENGINES
def test_weights_whose_shape_changes_in_the_same_memory(engine: Any) -> None:
    p = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = stepwell.Adafactor([p], engine=engine)
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.data = p.data.view(6, 4)
    p.grad = torch.ones_like(p)
    with pytest.raises(
        ValueError, match=r"^the slot 'row_var' has shape \(4, 1\), and its parameter has shape \(6, 4\)"
    ):
        optimizer.step()


@ENGINES
@pytest.mark.parametrize("how", ["{}", "saved", "popped", "deleted", "cleared"])
def test_state_that_was_replaced_or_dropped(engine: Any, how: str) -> None:
    (optimizer, p), (plain, expected) = made(engine), made(engine)
    stepped(optimizer, p)
    saved = {"step": 1, "exp_avg": torch.full((1000,), 0.5), "exp_avg_sq": torch.ones(1000)}
    optimizer.state[p]["step"] += 5
    if how == "popped":
        optimizer.state.pop(p)
        assert optimizer.state[p] == {}  # which makes another
    elif how == "deleted":
        del optimizer.state[p]
    elif how == "cleared":
        optimizer.state[p].clear()
    else:
        optimizer.state[p] = dict(saved) if how == "saved" else {}
    with torch.no_grad():
        expected.copy_(p)
    if how == "saved":
        plain.state[expected] = {name: torch.clone(x) if name != "step" else x for name, x in saved.items()}
    assert torch.equal(stepped(optimizer, p, times=2), stepped(plain, expected, times=2))
    assert optimizer.state[p]["step"] == plain.state[expected]["step"] == (3 if how == "saved" else 2)


@ENGINES
@pytest.mark.parametrize("rule", ["Prodigy", "ScheduleFreeAdamW", "ASGD", "AdamW"])
@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_numbers_of_numpy_in_a_live_group(engine: Any, rule: str, number: Any, tmp_path: Path) -> None:
    found = []
    for kind in (number, lambda value: float(number(value))):
        p = torch.nn.Parameter(torch.ones(10))
        optimizer = stepwell.Optimizer([p], rule_class(rule)(), engine=engine)
        optimizer.param_groups[0]["lr"] = kind(0.01)
        stepped(optimizer, p, times=2)
        saved = optimizer.state_dict()
        torch.save(saved, tmp_path / "state.pt")
        assert torch.load(tmp_path / "state.pt", weights_only=True)["param_groups"] == saved["param_groups"]
        assert type(saved["param_groups"][0]["lr"]) is float
        assert type(optimizer.param_groups[0]["lr"]) is type(kind(0.01))  # what is live stays what it is
        found.append(p.detach())
    assert torch.equal(*found)


def test_state_follows_its_parameter(caplog: pytest.LogCaptureFixture) -> None:
    preparing._say_moved.cache_clear()
    rule, state = AdamW(), {"step": 3, "exp_avg": torch.ones(5), "exp_avg_sq": torch.ones(5)}
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        for _ in range(2):
            state |= {"exp_avg": torch.ones(5)}
            prepare(rule, torch.nn.Parameter(torch.ones(5, device="meta")), state, {}, Storage())
    assert {name: held.device.type for name, held in state.items() if isinstance(held, torch.Tensor)} == {
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
    }
    assert state["step"] == 3
    assert [record.message for record in caplog.records] == [
        "state on cpu was moved to meta, where its parameters are now"
    ]


def test_a_parameter_in_another_shape_says_which_slot_does_not_go_with_it() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = stepwell.AdamW([weight])
    weight.grad = torch.ones(3, 4)
    optimizer.step()
    weight.data, weight.grad = torch.ones(5, 4), None
    weight.grad = torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"'exp_avg' has shape \(3, 4\), and its parameter has shape \(5, 4\) now"):
        optimizer.step()
    del optimizer.state[weight]
    optimizer.step()
    assert weight[0, 0] < 1


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (rules.Dion(), "rank_fraction", 0.5),
        (rules.AdamMini(), "heads", 2),
        (rules.SOAP(), "max_precond_dim", 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_decides_the_shape_of_state_that_is_there_stays(rule: Rule, name: str, value: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = stepwell.Optimizer([{"params": [weight], "name": "body"}], rule)
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    group = optimizer.param_groups[0]
    before = group[name]
    group[name] = value
    kept = weight.detach().clone()
    said = rf"^{name} was {before} and is {value} now \(group 'body'\), which takes a new optimizer: the slot "
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            optimizer.step()
    assert torch.equal(weight, kept)
    assert optimizer.state[weight]["step"] == 1
    group[name] = before  # and so a state dict has the options that go with its state
    optimizer.step()
    assert not torch.equal(weight, kept)
    group[name] = value
    optimizer.state[weight].clear()
    optimizer.step()
