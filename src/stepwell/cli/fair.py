"""`stepwell compare --fair`: the protocol of docs/evidence.md on the user's own task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from stepwell.cli.arguments import write_whole
from stepwell.cli.job import DONE, INTERRUPTED
from stepwell.cli.summary import console as terminal
from stepwell.cli.summary import fair_table
from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.experiment import versions
from stepwell.compare.fair import FairTest, Outcome, Protocol, Runs, TaskOf, check
from stepwell.compare.standing import Standing, standings
from stepwell.compare.task import TaskError
from stepwell.report import numbers

FORMAT = 1


def run_fairly(task_of: TaskOf, contestants: Sequence[Contestant], protocol: Protocol, out: Path) -> int:
    """Runs what is not there yet, prints how the recipes stand, and writes `fair.json`. Returns the exit code.

    Raises:
        TaskError: the task cannot be tested, or failed on the way; what was measured stands in `out`/fair.
        ContestantError: Optuna is not there, or no recipe could be tested.
    """
    console = terminal()
    task = task_of(protocol.seed)
    console.print(f"\n[bold]stepwell compare[/bold]  {task.name}: a fair test", highlight=False)
    for warning in check(task_of, contestants[0], protocol):
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
        protocol = replace(protocol, longer=1)
    runs = Runs(out / "fair")
    count = protocol.runs() * protocol.steps
    console.print(f"{count:,} steps for each of {len(contestants)} recipes\n", highlight=False)

    def watch(outcome: Outcome, made: bool) -> None:
        loss = "diverged" if outcome.loss is None else numbers.loss(outcome.loss)
        there = "" if made else "  (was there)"
        console.print(f"  {outcome.order.recipe}  {outcome.order.stage}  {loss}{there}", highlight=False)

    test = FairTest(task_of, protocol, runs, watch)
    failed: list[str] = []
    interrupted = False
    try:
        for contestant in contestants:
            try:
                test.run(contestant)
            except ContestantError as error:
                failed.append(str(error))
    except TaskError as error:
        _conclude(console, task.name, contestants, protocol, out)
        raise TaskError(f"{error}; what was measured is kept in {str(runs.folder)!r}") from error
    except KeyboardInterrupt:
        interrupted = True
    found = _conclude(console, task.name, contestants, protocol, out)
    for problem in failed:
        console.print(problem, style="yellow", highlight=False, soft_wrap=True)
    if not found and not interrupted:
        raise ContestantError(failed[0])
    return INTERRUPTED if interrupted else DONE


def _conclude(
    console: Console, task: str, contestants: Sequence[Contestant], protocol: Protocol, out: Path
) -> list[Standing]:
    """What there is, printed and written."""
    runs = Runs(out / "fair")
    found = standings({each.name: runs.of(each.name) for each in contestants})
    if not found:
        return []
    content = {
        "format": FORMAT,
        "task": task,
        "protocol": asdict(protocol),
        "versions": versions(),
        "standings": [asdict(one) for one in found],
    }
    write_whole(out / "fair.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    console.print()
    console.print(fair_table(found, {each.name: each.title for each in contestants}))
    console.print(f"\n  numbers   {out / 'fair.json'}", highlight=False, soft_wrap=True)
    console.print(f"  runs      {runs.folder}", highlight=False, soft_wrap=True)
    return found
