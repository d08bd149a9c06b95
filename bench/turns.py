"""Timing: the contenders step in turn, round after round, in one process."""

from __future__ import annotations

import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Step = Callable[[], object]

# Steps shorter than this are timed several at a turn.
_TURN_SECONDS = 0.02
_MOST_STEPS = 50
# Steps longer than this do not depend on what the contender before left in the caches.
_LONG_SECONDS = 0.2


@dataclass(frozen=True)
class Timing:
    """Milliseconds a step: the first of all, which may compile, and for each round the median of a turn's steps."""

    first: float
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    def over(self, count: int) -> Timing:
        """The time of one step, where so many have been timed as one."""
        return Timing(self.first / count, tuple(turn / count for turn in self.rounds))


@dataclass(frozen=True)
class Runner:
    """A step that has been taken twice, and the seconds that this took."""

    step: Step
    first: float
    second: float


def repeated(step: Step, count: int) -> Step:
    """So many steps as one."""

    def steps() -> None:
        for _ in range(count):
            step()

    return step if count == 1 else steps


def warmed_up(step: Step, device: torch.device) -> Runner:
    """Take the first two steps."""
    return Runner(step, timed(step, device), timed(step, device))


def take_turns(
    runners: Mapping[str, Runner], rounds: int, device: torch.device, after: Callable[[str], object] = lambda _: None
) -> dict[str, Timing]:
    """Time each step in turn (A B C A B C …).

    A turn begins with an untimed step, so that the caches hold what steps in a row leave in them, and goes on with as
    many timed ones as fill 20 ms, at least one. On a GPU these are timed as one, for there the host goes ahead.

    Args:
        runners: what to time, by name.
        rounds: turns of each.
        device: what to wait for before a clock is read.
        after: called with the name after each turn, untimed.
    """
    usual = {name: runner.second for name, runner in runners.items()}
    turns: dict[str, list[float]] = {name: [] for name in runners}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, runner in runners.items():
                if usual[name] < _LONG_SECONDS:
                    usual[name] = timed(runner.step, device)
                count = max(1, min(_MOST_STEPS, math.ceil(_TURN_SECONDS / usual[name])))
                turns[name].append(1e3 * _turn(runner.step, count, device))
                after(name)
    finally:
        gc.enable()
    return {name: Timing(1e3 * runner.first, tuple(turns[name])) for name, runner in runners.items()}


def _turn(step: Step, count: int, device: torch.device) -> float:
    """Seconds of a step, of so many in a row."""
    if device.type == "cuda":
        return timed(repeated(step, count), device) / count
    return statistics.median(timed(step, device) for _ in range(count))


def host_seconds(step: Step, device: torch.device, count: int = 20) -> float:
    """Seconds until the host goes on, while a device does the steps."""
    synchronise(device)
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    synchronise(device)
    return statistics.median(taken)


@functools.cache
def copy_bandwidth(device: torch.device, elements: int = 1 << 30) -> float:
    """Gigabytes a second that a copy within the device's memory reads and writes: the median of nine."""
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    seconds = [timed(lambda: target.copy_(source), device) for _ in range(10)][1:]
    return 2e-9 * source.nbytes / statistics.median(seconds)


def timed(step: Step, device: torch.device) -> float:
    """Seconds of one step."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
