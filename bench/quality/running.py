"""The runs: every rule on every task under one protocol, then the variations that single claims ask for."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench.quality import variations
from bench.quality.tasks import TASKS
from bench.records import RESULTS
from stepwell.compare.contestants import ContestantError
from stepwell.compare.fair import FairTest, Protocol
from stepwell.compare.fair_contestants import BASELINE, RULES
from stepwell.compare.kept import Outcome, Runs

FOLDER = RESULTS / "quality"
QUICK_FOLDER = RESULTS / "quality-quick"


@dataclass(frozen=True)
class Unit:
    """Work that one process does from beginning to end: one rule's runs on a task, or one variation of it."""

    task: str
    rule: str
    variation: str | None = None

    @property
    def title(self) -> str:
        return f"{self.task} {self.rule}" + (f" {self.variation}" if self.variation else "")


def protocol_of(task: str, *, quick: bool = False) -> Protocol:
    """The protocol on this task; the quick one has half the tries and half the steps, one fresh seed, and a longer run
    of twice the steps."""
    steps = TASKS[task].steps
    return Protocol(steps=steps // 2, tries=4, fresh=1, longer=2) if quick else Protocol(steps=steps)


def units(tasks: Iterable[str], rules: Sequence[str] | None, *, quick: bool = False) -> list[Unit]:
    """All work, in the order in which it matters: the rules on every task, then the variations."""
    chosen = list(tasks)
    found = [Unit(task, rule) for task in chosen for rule in rules or [*RULES, *variations.entrants(task, quick=quick)]]
    if not quick:
        found += [
            Unit(task, variation.rule, variation.name)
            for task in chosen
            for variation in variations.on(task)
            if rules is None or variation.rule in rules
        ]
    return found


def run_all(work: Sequence[Unit], folder: Path, *, jobs: int, quick: bool = False) -> int:
    """All of the work, in `jobs` processes of one thread each. Returns how many units failed."""
    begun = time.monotonic()
    do = partial(run_unit, folder=folder, quick=quick)
    failed = 0
    for unit, problem in _done(do, work, jobs):
        failed += problem is not None
        minutes = (time.monotonic() - begun) / 60
        print(f"{unit.title}: {problem or 'done'} ({minutes:.1f} min)", file=sys.stderr, flush=True)
    return failed


def _done(do: Callable[[Unit], str | None], work: Sequence[Unit], jobs: int) -> Iterable[tuple[Unit, str | None]]:
    if jobs == 1:
        yield from ((unit, do(unit)) for unit in work)
        return
    # A process that is forked inherits the threads' locks of this one without its threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = {pool.submit(do, unit): unit for unit in work}
        yield from ((waiting[one], one.result()) for one in as_completed(waiting))


def run_unit(unit: Unit, *, folder: Path, quick: bool = False) -> str | None:
    """One unit's runs, on one thread. Returns what went wrong with the rule, if anything did."""
    torch.set_num_threads(1)
    entry = TASKS[unit.task]
    test = FairTest(entry.of, protocol_of(unit.task, quick=quick), Runs(folder / unit.task), _say)
    try:
        if unit.variation is None:
            test.run(variations.contestant(unit.rule))
        else:
            variations.named(unit.task, unit.rule, unit.variation).run(test)
    except ContestantError as error:
        return str(error)
    return None


def outcomes(folder: Path) -> dict[str, dict[str, dict[str, Outcome]]]:
    """All that has been run, by task, rule and stage, in the order of `TASKS` and `RULES`."""
    found: dict[str, dict[str, dict[str, Outcome]]] = {}
    for task in TASKS:
        runs = Runs(folder / task)
        names = [*RULES, *variations.entrants(task)]
        by_rule = {rule: stages for rule in names if (stages := runs.of(rule))}
        if BASELINE in by_rule:
            found[task] = by_rule
    return found


def _say(outcome: Outcome, made: bool) -> None:
    if made:
        order, loss = outcome.order, outcome.loss
        text = "diverged" if loss is None else f"{loss:.4f}"
        print(f"{order.task} {order.recipe} {order.stage}: {text}", flush=True)
