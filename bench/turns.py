"""Timing: the contenders step in turn, round after round, in one process."""

from __future__ import annotations

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
    """Milliseconds: the first step of all, which may compile, and the median of a turn's steps, for each round."""

    first: float
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Step, device: torch.device) -> float:
    """Seconds of one step."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def take_turns(
    steps: Mapping[str, Step], rounds: int, device: torch.device, after: Callable[[str], object] = lambda _: None
) -> dict[str, Timing]:
    """Time each step in turn (A B C A B C …).

    Each warms up with two steps. In each round its turn begins with an untimed step, which leaves the caches as steps
    in a row find them, and as many timed ones as fill 20 ms.

    Args:
        steps: what to time, by name.
        rounds: turns of each.
        device: what to wait for before a clock is read.
        after: called with the name after each turn, untimed.
    """
    first: dict[str, float] = {}
    usual: dict[str, float] = {}
    for name, step in steps.items():
        first[name], usual[name] = timed(step, device), timed(step, device)
        after(name)
    turns: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, step in steps.items():
                if usual[name] < _LONG_SECONDS:
                    usual[name] = min(usual[name], timed(step, device))
                count = min(_MOST_STEPS, math.ceil(_TURN_SECONDS / usual[name]))
                turns[name].append(statistics.median(timed(step, device) for _ in range(count)) * 1e3)
                after(name)
    finally:
        gc.enable()
    return {name: Timing(first[name] * 1e3, tuple(turns[name])) for name in steps}
