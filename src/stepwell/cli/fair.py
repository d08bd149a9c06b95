"""`stepwell compare --fair`: the protocol of docs/evidence.md on the user's own task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from stepwell.cli.arguments import write_whole
from stepwell.cli.job import DONE, announcement
from stepwell.cli.summary import console as terminal
from stepwell.cli.summary import fair_table, show_whole
from stepwell.compare.checking import check
from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.experiment import versions
from stepwell.compare.fair import FairTest, Protocol, TaskOf, lowest
from stepwell.compare.kept import KeptError, Outcome, Runs
from stepwell.compare.standing import divergences, standings, tries
from stepwell.compare.task import TaskError
from stepwell.text import numbers

FORMAT = 1


def run_fairly(task_of: TaskOf, contestants: Sequence[Contestant], protocol: Protocol, out: Path) -> int:
    """Runs what is not there yet, prints how the recipes stand, and writes `fair.json`. Returns the exit code. Ctrl-C
    (KeyboardInterrupt) goes on to the caller once what there is has been printed and written.

    Raises:
        TaskError: the task cannot be tested, or failed on the way; what was measured stands in `out`/fair.
        KeptError: what is kept there is another test's, or nothing can be kept; `fair.json` is left as it was.
        ContestantError: Optuna is not there, or no recipe could be tested.
    """
    console = terminal()
    task = task_of(protocol.seed)
    console.print(announcement(task.name, "a fair test"), end="")
    runs = Runs(out / "fair")
    kept = FairTest(task_of, protocol, runs).kept(contestants)
    for warning in check(task_of, contestants[0], protocol, kept):
        _say(console, warning)
        protocol = replace(protocol, longer=1)
    count = protocol.runs() * protocol.steps
    console.print(f"{count:,} steps for each of {len(contestants)} recipes\n", highlight=False)

    def watch(outcome: Outcome, made: bool) -> None:
        loss = "diverged" if outcome.loss is None else numbers.loss(outcome.loss)
        there = "" if made else "  (was there)"
        console.print(f"  {outcome.order.recipe}  {outcome.order.stage}  {loss}{there}", highlight=False)

    test = FairTest(task_of, protocol, runs, watch)
    failed: list[str] = []
    try:
        for contestant in contestants:
            try:
                test.run(contestant)
            except KeptError:
                raise
            except ContestantError as error:
                failed.append(str(error))
    except TaskError as error:
        _conclude(console, task.name, contestants, test, out)
        raise TaskError(f"{error}; what was measured is kept in {str(runs.folder)!r}") from error
    except KeyboardInterrupt:
        _conclude(console, task.name, contestants, test, out)
        raise
    _conclude(console, task.name, contestants, test, out)
    if not any(lowest(tries(stages)) for stages in test.outcomes.values()):
        *failed, last = failed
        for problem in failed:
            _say(console, problem)
        raise ContestantError(last)
    for problem in failed:
        _say(console, problem)
    return DONE


def _conclude(console: Console, task: str, contestants: Sequence[Contestant], test: FairTest, out: Path) -> None:
    """What this test has made and found, printed and written."""
    stages = {each.name: test.outcomes.get(each.name, {}) for each in contestants}
    found = standings(stages)
    if not found:
        return
    content = {
        "format": FORMAT,
        "task": task,
        "protocol": asdict(test.protocol),
        "versions": versions(),
        "standings": [asdict(one) for one in found],
    }
    write_whole(out / "fair.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    console.print()
    show_whole(fair_table(found, {each.name: each.title for each in contestants}), console)
    for recipe, made in stages.items():
        if diverged := divergences(made):
            _say(console, f"{recipe}: {'; '.join(diverged)}")
    console.print(f"\n  numbers   {out / 'fair.json'}", highlight=False, soft_wrap=True)
    console.print(f"  runs      {test.runs.folder}", highlight=False, soft_wrap=True)


def _say(console: Console, problem: str) -> None:
    """What is amiss and does not stop the test."""
    console.print(problem, style="yellow", highlight=False, soft_wrap=True)
