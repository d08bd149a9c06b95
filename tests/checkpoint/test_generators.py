"""The states of random generators: taken as plain values, checked, put back."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from stepwell.checkpoint import generators
from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.plain import decode, encode
from stepwell.optimizer.snapshot import Snapshot


def draw() -> Any:
    return (
        [random.random() for _ in range(700)] + [random.gauss(0, 1)],
        np.random.rand(700).tolist() + np.random.randn(1).tolist(),
        torch.rand(700).tolist() + torch.randn(1).tolist(),
    )


def through_json(saved: Any) -> Any:
    return decode(json.loads(json.dumps(encode(saved, "random", lambda path, _: path))), {}.__getitem__)


def test_the_same_numbers_come_again() -> None:
    random.gauss(0, 1)  # keeps a second number for the next call, as NumPy's does
    np.random.randn(1)
    torch.randn(1)
    saved = through_json(generators.states())
    first = draw()
    draw()
    generators.check(saved)
    assert generators.restore(saved) == []
    assert draw() == first


def test_taking_them_and_checking_them_draws_nothing() -> None:
    saved = generators.states()
    generators.check(saved)
    assert generators.states() == saved


@pytest.mark.parametrize(
    "change",
    [
        {"python": None},
        {"python": (3, b"abcd", None)},
        {"numpy": ("MT19937", b"", 3, 0, 0.0)},
        {"numpy": ("PCG64", b"", 3, 0, 0.0)},
        {"torch": b"short"},
        {"torch": "text"},
    ],
)
def test_states_that_are_none_are_refused_and_nothing_changes(change: dict[str, Any]) -> None:
    before = generators.states()
    with pytest.raises(CheckpointError, match=r"^its states of random generators cannot be used: "):
        generators.check({**before, **change})
    assert generators.states() == before


class Module:
    """The part of `torch.cuda` that is looked at."""

    def __init__(self, devices: int, started: bool = True) -> None:
        self.held = [torch.full((4,), index, dtype=torch.uint8) for index in range(devices)]
        self.started = started

    def is_initialized(self) -> bool:
        return self.started

    def device_count(self) -> int:
        return len(self.held)

    def get_rng_state(self, index: int) -> torch.Tensor:
        self.start()
        return self.held[index]

    def start(self) -> None:
        """A device seeds itself with what `torch.manual_seed` has put off, after what was set before."""
        if not self.started:
            self.started, self.held = True, [torch.full((4,), 77, dtype=torch.uint8)] * len(self.held)

    def set_rng_state(self, state: torch.Tensor, index: int) -> None:
        self.held[index] = state


def test_those_of_an_accelerator_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Module(3)
    monkeypatch.setattr(generators, "_accelerator", lambda: ("cuda", there))
    saved = generators.states()
    assert saved["accelerator"] == ("cuda", [bytes([index] * 4) for index in range(3)])
    fewer = Module(2)
    fewer.held = [torch.zeros(4, dtype=torch.uint8)] * 2
    monkeypatch.setattr(generators, "_accelerator", lambda: ("cuda", fewer))
    assert generators.restore(saved) == ["the random generators of 1 cuda device have no counterpart here"]
    assert [state.tolist() for state in fewer.held] == [[0] * 4, [1] * 4]
    monkeypatch.setattr(generators, "_accelerator", lambda: ("", None))
    assert generators.restore(saved) == ["the random generators of 3 cuda devices have no counterpart here"]
    monkeypatch.setattr(generators, "_accelerator", lambda: ("cuda", Module(2, started=False)))
    assert "accelerator" not in generators.states()


def test_those_of_an_accelerator_that_is_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "_accelerator", lambda: ("cuda", Module(2)))
    saved = generators.states()
    later = Module(2, started=False)
    monkeypatch.setattr(generators, "_accelerator", lambda: ("cuda", later))
    generators.restore(saved)
    later.start()
    assert [state.tolist() for state in later.held] == [[0] * 4, [1] * 4]


class Metal:
    """The part of `torch.mps` that is looked at: one device, and no telling whether it has been used."""

    def __init__(self) -> None:
        self.held = torch.full((4,), 5, dtype=torch.uint8)

    def device_count(self) -> int:
        return 1

    def get_rng_state(self, _: int | str | torch.device = "mps") -> torch.Tensor:
        return self.held

    def set_rng_state(self, state: torch.Tensor, _: int | str | torch.device = "mps") -> None:
        self.held = state


def test_those_of_an_accelerator_that_does_not_say_whether_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Metal()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch, "get_device_module", lambda _: there)
    saved = generators.states()
    assert saved["accelerator"] == ("mps", [bytes([5] * 4)])
    there.held = torch.zeros(4, dtype=torch.uint8)
    assert generators.restore(saved) == []
    assert there.held.tolist() == [5] * 4


def test_no_driver_is_started_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is forked off later could not use it."""

    def asked() -> None:
        raise AssertionError("that may start a driver")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # whatever tests before this one have done
    monkeypatch.setattr(torch.accelerator, "is_available", asked)
    monkeypatch.setattr(torch.accelerator, "device_count", asked)
    monkeypatch.setattr(torch.cuda, "is_available", asked)
    monkeypatch.setattr(torch.cuda, "device_count", asked)
    before = generators.states()
    generators.check(before)
    assert generators.restore(before) == []
    with Snapshot(torch.optim.SGD([torch.zeros(2, requires_grad=True)])):
        torch.rand(1)
    assert generators.states() == before
