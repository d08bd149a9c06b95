"""`python -m bench schedule`: one call of a schedule, and one step of a scheduler beside torch's and transformers'."""

from __future__ import annotations

import functools
import gc
import math
import timeit
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from bench.contenders import OURS
from bench.records import ScheduleRow
from bench.turns import Timing
from stepwell.scheduler import Scheduler
from stepwell.schedules import Cosine, parse

GROUPS = 10
_HORIZON, _WARMUP = 1_000_000, 1_000
_CALLS = 2_000  # in one turn

# One of each family, and what is slow about it: restarts that grow, three phases, a composition, five boundaries.
SCHEDULES = (
    "Constant(warmup=0.1)",
    "Linear(warmup=0.1)",
    "Cosine(warmup=0.1)",
    "WSD(warmup=0.1)",
    "InverseSqrt(warmup=0.1)",
    "OneCycle(three_phase=True)",
    "CosineRestarts(cycles=4, growth=2)",
    "Cyclic(mode='triangular2')",
    "MultiStep(at=[0.2, 0.4, 0.6, 0.8, 0.9])",
    "warmup(Cosine(end=0.1), 0.1, shape='cosine')",
    "sequence(Constant(warmup=0.1), Linear(), at=[0.8])",
)


def measure(rounds: int) -> Iterator[ScheduleRow]:
    """A call of each schedule in the middle of its way, and a step of each scheduler of ten groups."""
    for text in SCHEDULES:
        schedule = parse(text).resolve(_HORIZON)
        timings = in_turn({OURS: functools.partial(schedule, _HORIZON // 2)}, rounds)
        yield ScheduleRow("One call", text, timings)
    steps, missing = steppers()
    yield ScheduleRow(
        f"One step of a scheduler, {GROUPS} groups", "cosine with warm-up", in_turn(steps, rounds), missing
    )


def steppers() -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Steps of schedulers of the same cosine, by who makes them, and why who is missing is."""
    found = {
        OURS: _stepper(lambda optimizer: Scheduler(optimizer, lr=Cosine(warmup=_WARMUP), horizon=_HORIZON)),
        "torch LambdaLR": _stepper(lambda optimizer: LambdaLR(optimizer, cosine)),
    }
    try:
        from transformers import get_cosine_schedule_with_warmup
    except ImportError as error:
        return found, {"transformers": f"cannot be imported: {error}"}
    found["transformers"] = _stepper(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, _WARMUP, _HORIZON))
    return found, {}


def _stepper(make: Callable[[torch.optim.Optimizer], Any]) -> Callable[[], Any]:
    """The step of a new scheduler, on an optimizer of its own that has made one: torch's schedulers ask for it."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(GROUPS)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = make(optimizer)
    optimizer.step()
    step: Callable[[], Any] = scheduler.step
    return step


def cosine(step: int) -> float:
    """The same schedule as a function for LambdaLR, written as its users write it."""
    if step < _WARMUP:
        return step / _WARMUP
    progress = (step - _WARMUP) / (_HORIZON - _WARMUP)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def in_turn(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Milliseconds of one call, timed over many calls at a turn (A B C A B C …)."""
    first = {name: 1e3 * timeit.timeit(call, number=1) for name, call in contenders.items()}
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    for _ in range(rounds):
        for name, call in contenders.items():
            turns[name].append(1e3 * timeit.timeit(call, number=_CALLS) / _CALLS)  # timeit stops the collector
    return {name: Timing(first[name], tuple(turns[name])) for name in contenders}
