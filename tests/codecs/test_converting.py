"""State that was saved in one storage and is loaded, or goes on, in another."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from conformance.storage import numbers
from stepwell import Optimizer, rules
from stepwell.codecs import converting

SHAPES = ((5000,), (3, 4))
RULE = rules.AdamW(lr=0.05)


@pytest.fixture(autouse=True)
def _say_again() -> Iterator[None]:
    converting.say_converted.cache_clear()
    yield
    converting.say_converted.cache_clear()


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(dtype: torch.dtype = torch.float32, **storage: Any) -> Optimizer:
    parameters = [normal(shape, seed).to(dtype).requires_grad_() for seed, shape in enumerate(SHAPES)]
    optimizer = Optimizer(parameters, RULE, **storage)
    for step in range(3):
        give_gradients(optimizer, step)
        optimizer.step()
    return optimizer


def give_gradients(optimizer: Optimizer, step: int) -> None:
    for index, p in enumerate(optimizer.param_groups[0]["params"]):
        p.grad = normal(tuple(p.shape), 100 * step + index + 7).to(p.dtype)


def resumed(optimizer: Optimizer, dtype: torch.dtype | None = None, **storage: Any) -> Optimizer:
    parameters = [p.detach().clone().to(dtype or p.dtype) for p in optimizer.param_groups[0]["params"]]
    other = Optimizer([p.requires_grad_() for p in parameters], RULE, **storage)
    other.load_state_dict(optimizer.state_dict())
    return other


def state_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]


WAYS = [None, "float32", "bfloat16", "8bit", "4bit"]


@pytest.mark.parametrize("want", WAYS)
@pytest.mark.parametrize("have", WAYS)
def test_state_goes_from_any_storage_into_any(have: Any, want: Any, caplog: pytest.LogCaptureFixture) -> None:
    first = trained(state_dtype=have)
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        second = resumed(first, state_dtype=want)
    dtype = {None: torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}.get(want, torch.uint8)
    kept = have == "bfloat16" and want is None  # None leaves the dtype open, so what was found stays
    large, small = state_of(second)
    assert large["exp_avg"].dtype == (torch.bfloat16 if kept else dtype)
    assert ("exp_avg_scale" in large) == (dtype == torch.uint8)
    assert small["exp_avg"].dtype == (torch.bfloat16 if kept else torch.float32 if dtype == torch.uint8 else dtype)
    assert second.param_groups[0]["state_dtype"] == want
    assert bool(caplog.records) != (have == want or kept or {have, want} == {None, "float32"})
    # To the nearest of what it goes into: half the distance of two of its numbers, at most at the largest.
    rough = 0.0 if kept else {"bfloat16": 2.0**-8, "8bit": 2.0**-5, "4bit": 2.0**-2}.get(want, 0.0)
    before, after = numbers(first), numbers(second)
    for slot in ("exp_avg", "exp_avg_sq"):
        for a, b in zip(before[slot], after[slot], strict=True):
            assert float((a - b).abs().max()) <= (rough + 1e-6 * bool(rough)) * float(a.abs().max())
    give_gradients(second, 9)
    second.step()
    assert not torch.equal(numbers(second)["p"][0], after["p"][0])


def test_a_conversion_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        resumed(trained(), state_dtype="8bit")
        resumed(trained(), state_dtype="8bit")
    assert [record.getMessage() for record in caplog.records] == [
        "state found as float32: kept as 8bit signed from here on, as its parameter group asks",
        "state found as float32: kept as 8bit unsigned from here on, as its parameter group asks",
    ]


def test_how_to_store_stays_as_it_is_here_and_the_seed_goes_along() -> None:
    second = resumed(trained(torch.bfloat16, master="stochastic", rounding_seed=9), state_dtype="8bit", master="kahan")
    group = second.param_groups[0]
    assert (group["state_dtype"], group["master"], group["rounding_seed"]) == ("8bit", "kahan", 9)


def test_torchs_state_loads_in_8_bits() -> None:
    p = torch.zeros(5000).requires_grad_()
    theirs = torch.optim.AdamW([p], lr=0.1)
    p.grad = normal((5000,), 1)
    theirs.step()
    ours = stepwell.AdamW([p], state_dtype="8bit")
    ours.load_state_dict(theirs.state_dict())
    assert ours.state[p]["exp_avg_sq"].dtype == torch.uint8
    largest = float(theirs.state[p]["exp_avg"].abs().max())
    assert float(ours.state[p]["exp_avg_scale"].max()) == pytest.approx(largest)


# Weights


@pytest.mark.parametrize("want", ["kahan", "compensated", "compensated8", "float32"])
@pytest.mark.parametrize("have", ["kahan", "compensated", "compensated8", "float32"])
def test_what_is_kept_beside_weights_goes_over(have: Any, want: Any) -> None:
    first = trained(torch.bfloat16, master=have, state_dtype="float32")
    second = resumed(first, master=want, state_dtype="float32")
    give_gradients(first, 9)
    give_gradients(second, 9)
    first.step()
    second.step()
    for (p, q), (a, b) in zip(
        zip(*(each.param_groups[0]["params"] for each in (first, second)), strict=True),
        zip(state_of(first), state_of(second), strict=True),
        strict=True,
    ):
        number, other = (
            converting.weights_codec(torch.bfloat16, state, tuple(w.shape)).load(
                [w.detach(), *(state[name] for name in converting.names_beside("p") if name in state)], tuple(w.shape)
            )
            for w, state in ((p, a), (q, b))
        )
        # Kahan's 16 bits are the least that each of them holds.
        assert float((number - other).abs().max()) <= 3 * 2.0**-16 * float(number.abs().max())


@pytest.mark.parametrize("master", ["kahan", "compensated", "compensated8", "float32"])
def test_weights_alone_are_enough_to_begin_with(master: Any) -> None:
    second = resumed(trained(torch.bfloat16), master=master)
    for p, state in zip(second.param_groups[0]["params"], state_of(second), strict=True):
        (name,) = (name for name in converting.names_beside("p") if name in state)
        if master == "float32":
            assert torch.equal(state[name], p.detach().float())
        else:
            assert not state[name].any()


def test_wide_weights_need_nothing_beside_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        second = resumed(trained(torch.bfloat16, master="compensated"), torch.float32)
    assert all("weight_remainder" not in state for state in state_of(second))
    assert "weight_remainder" in caplog.text
    give_gradients(second, 9)
    second.step()


# What cannot be loaded


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda state: state.update(exp_avg_scale=torch.zeros(3)),
            "the saved slot 'exp_avg' of parameter 0 of group 0 has shape (5000,) and dtype torch.uint8, "
            "with scales of shape (3,), the parameter shape (5000,)",
        ),
        (
            lambda state: state.pop("exp_avg_scale"),
            "the saved slot 'exp_avg' of parameter 0 of group 0 has dtype torch.uint8, the parameter shape (5000,)",
        ),
        (
            lambda state: state.update(weight_remainder=torch.zeros(7, dtype=torch.int16)),
            "the saved 'weight_remainder' of parameter 0 of group 0 has another shape than the parameter, "
            "which has (5000,)",
        ),
    ],
)
def test_damaged_state_is_refused(damage: Any, message: str) -> None:
    optimizer = trained(state_dtype="8bit")
    saved = optimizer.state_dict()
    damage(saved["state"][0])
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    fresh = trained(state_dtype="8bit")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fresh.load_state_dict(saved)
    give_gradients(fresh, 9)
    fresh.step()
    assert not torch.equal(fresh.param_groups[0]["params"][0], before[0])
