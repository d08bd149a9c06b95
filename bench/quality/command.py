"""The commands `python -m bench quality`, `large` and `evidence`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepwell.compare.contestants import ContestantError
from stepwell.compare.task import TaskError
from stepwell.text.naming import nearest

QUICK = "a look in ten minutes of one core: half the steps and tries, one fresh seed; kept apart, and no evidence"


def add_to(commands: Any) -> None:
    """Add these commands to the parser's."""
    about = "the protocol of docs/evidence.md: rules tuned alike on small real tasks (half an hour or so on one core)"
    quality = commands.add_parser("quality", help=about, description=about)
    quality.add_argument("--tasks", metavar="NAMES", help="with commas between; the usual ones by default")
    quality.add_argument("--rules", metavar="NAMES", help="with commas between; all by default")
    quality.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of one thread each, default 1")
    quality.add_argument("--quick", action="store_true", help=QUICK)
    quality.add_argument("--pace", action="store_true", help="measure milliseconds a step in place of losses")
    quality.add_argument("--out", type=Path, metavar="DIR", help="where the runs go; bench/results/quality by default")
    about = "a GPT of 126 million parameters at the rates that the small one found, in bfloat16 on a GPU"
    large = commands.add_parser("large", help=about, description=about)
    large.add_argument("--rules", metavar="NAMES", help="with commas between; all five by default")
    large.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="a CPU takes days; default cuda")
    large.add_argument("--steps", type=int, metavar="N", help="default 1500")
    large.add_argument("--out", type=Path, metavar="DIR", help="where the runs go; bench/results/large by default")
    commands.add_parser("evidence", help="write docs/evidence.md and its pictures from bench/results/quality")


def main(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Run one of them; what is wrong with the arguments ends the process with one line."""
    # Here, so that other benchmarks need no scikit-learn.
    from bench.quality import pace, running, variations
    from bench.quality.tasks import TASKS
    from stepwell.compare.fair_contestants import RULES

    if given.what == "evidence":
        from bench.quality.page import write

        print(*write(), sep="\n")
        return
    if given.what == "large":
        _large(parser, given)
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


def _large(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    import torch

    from bench.quality import large

    try:
        rules = _chosen("rule", given.rules, large.LARGE_RULES) or large.LARGE_RULES
    except ValueError as error:
        parser.error(str(error))
    if given.steps is not None and given.steps < 1:
        parser.error(f"--steps must be at least 1, got {given.steps}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    try:
        device = torch.device(given.device)
        found = large.run_all(rules, device, given.out or large.FOLDER, steps=given.steps or large.STEPS)
    except (ContestantError, TaskError) as error:
        parser.error(str(error))
    print(*found, sep="\n")


def _chosen(kind: str, names: str | None, known: Iterable[str]) -> list[str] | None:
    """These names, divided by commas; None where none is given."""
    if not names:
        return None
    every = list(dict.fromkeys(known))
    for name in names.split(","):
        if name not in every:
            raise ValueError(f"unknown {kind} {name!r}{nearest(name, every)}; known are {', '.join(every)}")
    return names.split(",")
