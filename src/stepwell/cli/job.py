"""One comparison, from the first step to the written files."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from stepwell.cli.arguments import write_whole
from stepwell.cli.board import Board
from stepwell.cli.summary import results_table, show_whole
from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.experiment import compare, conditions
from stepwell.compare.results import Comparison
from stepwell.compare.sweep import Sweep, sweep
from stepwell.compare.task import Task
from stepwell.compare.training import Run
from stepwell.compare.unfinished import Unfinished
from stepwell.report import render
from stepwell.report.finding import caution, finding
from stepwell.text import numbers

DONE = 0
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for: recipes on a task, where the files go, and what is kept until they are there. Its methods
    return the process's exit code."""

    console: Console
    contestants: list[Contestant]
    task: Task
    steps: int
    seed: int
    out: Path
    unfinished: Unfinished
    as_json: bool = False

    def compare(self, found: Sweep) -> int:
        """Trains every recipe at the best settings that the sweep found, or as it is written, and writes the files.

        A recipe that diverged in all of its tries is left out. Raises ContestantError where none is left.
        """
        contestants = [each for each in self.contestants if not gave_up(found, each)]
        if not contestants:
            recipes = "every recipe" if len(self.contestants) > 1 else f"recipe {self.contestants[0].name!r}"
            raise ContestantError(
                f"{recipes} diverged in all of its {found.tries_each} tries, so there is nothing to compare"
            )
        return replace(self, contestants=contestants)._compare(found.of([each.name for each in self.contestants]))

    def _compare(self, kept: Sweep) -> int:
        settings = {each.name: best_settings(kept, each) for each in self.contestants}
        self._announce(f"{self.steps:,} steps, seed {self.seed}")
        with self._board(("step", "loss", "validation", "lr", "time left"), self.steps) as board:

            def watch(run: Run) -> None:
                result = run.result
                failed = result.diverged_at is not None
                cells = (
                    f"{result.steps}/{self.steps}",
                    "diverged" if failed else numbers.loss(last(result.train_loss)),
                    numbers.loss(result.last_loss),
                    numbers.rate(last(next(iter(result.lr.values()))) or 0.0),
                    numbers.MISSING if failed else time_left(run, self.steps - result.steps),
                )
                board.update(result.recipe, result.steps, cells, failed=failed)

            comparison = compare(
                self.task,
                self.contestants,
                settings,
                steps=self.steps,
                seed=self.seed,
                sweep=asdict(kept) if kept.tries else {},
                watch=watch,
                unfinished=self.unfinished,
            )
        if comparison.interrupted and not any(run.steps for run in comparison.runs):
            self.unfinished.finish()
            raise KeyboardInterrupt
        return self._conclude(comparison)

    def search(self, task: Task, tries: int) -> int:
        """Searches every recipe's settings on `task`, writes them, and goes on to compare at the best."""
        for each in self.contestants:
            each.searched()  # known now, and not when the others have been searched
        self._announce(f"a sweep of {tries} tries for each recipe, {self.steps:,} steps each")
        with self._board(("try", "loss", "best", "time left"), tries * self.steps) as board:

            def watch(found: Sweep, run: Run) -> None:
                name, done = run.result.recipe, len(found.tries[run.result.recipe])
                best = found.best(name)
                cells = (
                    f"{done + 1}/{tries}",
                    numbers.loss(last(run.result.train_loss)),
                    numbers.loss(best.loss if best else None),
                    time_left(run, (tries - done) * self.steps - run.result.steps),
                )
                board.update(name, done * self.steps + run.result.steps, cells)

            self.unfinished.begin({"tries": tries, "task": self.task.name, "steps": self.steps, "seed": self.seed})
            done = self.unfinished.sweep()
            found = sweep(
                task,
                self.contestants,
                tries=tries,
                steps=self.steps,
                seed=self.seed + 1,
                watch=watch,
                done=None if done is None else Sweep.from_json(done),
                keep=lambda so_far: self.unfinished.keep_sweep(so_far.to_json()),
            )
        if found.interrupted and not any(found.tries.values()):
            self.unfinished.finish()
            raise KeyboardInterrupt
        write_whole(self.out / "sweep.json", found.to_json())
        if found.interrupted:
            comparison = conditions(self.task, self.contestants, steps=self.steps, seed=self.seed, sweep=asdict(found))
            comparison.interrupted = True
            return self._conclude(comparison)
        self.console.print(f"  settings  {self.out / 'sweep.json'}\n", highlight=False, soft_wrap=True)
        return self.compare(found)

    def _announce(self, what: str) -> None:
        self.console.print(announcement(self.task.name, what))

    def _board(self, columns: tuple[str, ...], total: int) -> Board:
        titles = {each.name: each.title for each in self.contestants}
        return Board(console=self.console, columns=columns, titles=titles, total=total)

    def _conclude(self, comparison: Comparison) -> int:
        """Writes the files and says where they are."""
        write_whole(self.out / "results.json", comparison.to_json())
        write_whole(self.out / "report.html", render(comparison))
        say = self.console.print
        if comparison.runs:
            say()
            show_whole(results_table(comparison), self.console)
        say(f"\n{finding(comparison)}", highlight=False)
        if warning := caution(comparison):
            say(warning, style="yellow", highlight=False)
        say(f"\n  report    {self.out / 'report.html'}", highlight=False, soft_wrap=True)
        say(f"  numbers   {self.out / 'results.json'}", highlight=False, soft_wrap=True)
        if comparison.interrupted:
            say("  go on     the same command with --resume", highlight=False, soft_wrap=True)
        else:
            self.unfinished.finish()
        if self.as_json:
            sys.stdout.write(comparison.to_json())
        return INTERRUPTED if comparison.interrupted else DONE


def announcement(task: str, what: str) -> Text:
    return Text.assemble("\n", ("stepwell compare", "bold"), f"  {task}: {what}\n")


def gave_up(found: Sweep, contestant: Contestant) -> bool:
    """Whether the recipe was tried, and diverged every time."""
    return contestant.name in found.tries and found.best(contestant.name) is None


def best_settings(found: Sweep, contestant: Contestant) -> dict[str, Any]:
    """The settings of the recipe's best try; none, where it was not tried and runs as it is written."""
    best = found.best(contestant.name)
    return {} if best is None else best.settings


def last(values: list[float]) -> float | None:
    return values[-1] if values else None


def time_left(run: Run, steps: int) -> str:
    """The time that so many more steps take at the run's speed so far."""
    if not run.result.steps:
        return numbers.MISSING
    seconds = steps * sum(run.result.step_seconds) / run.result.steps
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
