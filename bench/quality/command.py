"""The commands `python -m bench quality` and `evidence`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepwell.compare.contestants import ContestantError
from stepwell.compare.task import TaskError
from stepwell.naming import nearest

QUICK = "a look in about 15 minutes: half the steps and tries, one fresh seed; kept apart, and no evidence"


def add_to(commands: Any) -> None:
    """Add both commands to the parser's."""
    about = "the protocol of docs/evidence.md: rules tuned alike on small real tasks (half an hour or so on one core)"
    quality = commands.add_parser("quality", help=about, description=about)
    quality.add_argument("--tasks", metavar="NAMES", help="with commas between; the usual ones by default")
    quality.add_argument("--rules", metavar="NAMES", help="with commas between; all by default")
    quality.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of one thread each, default 1")
    quality.add_argument("--quick", action="store_true", help=QUICK)
    quality.add_argument("--pace", action="store_true", help="measure milliseconds a step in place of losses")
    quality.add_argument("--out", type=Path, metavar="DIR", help="where the runs go; bench/results/quality by default")
    commands.add_parser("evidence", help="write docs/evidence.md and its pictures from bench/results/quality")


def main(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Run one of them; what is wrong with the arguments ends the process with one line."""
    # Here, so that other benchmarks need no scikit-learn.
    from bench.quality import pace, running, variations
    from bench.quality.rules import RULES
    from bench.quality.tasks import TASKS

    if given.what == "evidence":
        from bench.quality.page import write

        print(*write(), sep="\n")
        return
    try:
        tasks = _chosen("task", given.tasks, TASKS) or [name for name, entry in TASKS.items() if entry.usual]
        known = [*RULES, *(name for task in tasks for name in variations.entrants(task))]
        rules = _chosen("rule", given.rules, known)
    except ValueError as error:
        parser.error(str(error))
    if given.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {given.jobs}")
    folder = given.out or (running.QUICK_FOLDER if given.quick else running.FOLDER)
    if given.pace:
        for task in tasks:
            print(pace.save(folder, task, pace.measure(task, rules or RULES)))
        return
    try:
        failed = running.run_all(
            running.units(tasks, rules, quick=given.quick), folder, jobs=given.jobs, quick=given.quick
        )
    except (ContestantError, TaskError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def _chosen(kind: str, names: str | None, known: Iterable[str]) -> list[str] | None:
    """These names, divided by commas; None where none is given."""
    if not names:
        return None
    every = list(dict.fromkeys(known))
    for name in names.split(","):
        if name not in every:
            raise ValueError(f"unknown {kind} {name!r}{nearest(name, every)}; known are {', '.join(every)}")
    return names.split(",")
