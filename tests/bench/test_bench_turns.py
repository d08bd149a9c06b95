from __future__ import annotations

import gc
import time
from functools import partial

import pytest
import torch

from bench import turns
from bench.turns import Runner, Timing, copy_bandwidth, host_seconds, take_turns, warmed_up

CPU = torch.device("cpu")


def test_warming_up_takes_two_steps() -> None:
    calls: list[str] = []
    runner = warmed_up(partial(calls.append, "a"), CPU)
    assert calls == ["a", "a"]
    assert runner.first >= 0
    assert runner.second >= 0


def test_long_steps_go_in_turn_one_at_a_time() -> None:
    calls: list[str] = []
    runners = {name: Runner(partial(calls.append, name), first=1.0, second=1.0) for name in "ab"}
    timings = take_turns(runners, 3, CPU, lambda name: calls.append(f"after {name}"))
    assert calls == ["a", "after a", "b", "after b"] * 3
    assert [len(timing.rounds) for timing in timings.values()] == [3, 3]
    assert timings["a"].first == 1000.0


def test_a_short_step_is_taken_once_untimed_and_then_several_times() -> None:
    calls: list[float] = []

    def step() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.002)

    take_turns({"a": Runner(step, first=0.002, second=0.002)}, 1, CPU)
    assert 2 < len(calls) <= 51


def test_collection_of_garbage_goes_on_afterwards() -> None:
    take_turns({"a": Runner(lambda: None, first=1.0, second=1.0)}, 1, CPU)
    assert gc.isenabled()


def test_the_median_is_over_rounds() -> None:
    assert Timing(9.0, (5.0, 1.0, 2.0)).median == 2.0


def test_the_bandwidth_of_a_copy_is_measured() -> None:
    assert copy_bandwidth(CPU, elements=1 << 16) > 0


def test_the_time_until_the_host_goes_on() -> None:
    calls: list[None] = []
    assert host_seconds(lambda: calls.append(None), CPU, count=3) >= 0
    assert len(calls) == 3


def test_steps_on_a_gpu_are_timed_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "synchronise", lambda _: None)
    calls: list[None] = []

    def step() -> None:
        calls.append(None)
        time.sleep(0.002)

    take_turns({"a": Runner(step, 0.002, 0.002)}, 1, torch.device("cuda"))
    assert 2 <= len(calls) <= 51
