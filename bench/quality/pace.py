"""Milliseconds a step, measured apart from the runs: these may share a machine, a clock may not.

Rules train in turn, ten steps at a turn, round after round, so that a machine that slows down slows all of them; ten
steps hold what a rule does only every tenth (SOAP's bases). A figure is the median over the rounds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.machine import Machine, this_machine
from bench.quality.tasks import TASKS
from bench.quality.variations import contestant
from stepwell.compare.training import Run

TURN, ROUNDS = 10, 9

Pace = dict[str, float]


def measure(task: str, rules: Iterable[str], rounds: int = ROUNDS) -> Pace:
    """Milliseconds a step of each rule on this task, on one thread, under the settings of its first try."""
    torch.set_num_threads(1)
    entry = TASKS[task]
    steps = TURN * (rounds + 1)
    runs = {rule: Run(entry.of(0), contestant(rule), _middle(rule), steps=steps, seed=0) for rule in rules}
    for run in runs.values():
        run.advance(TURN)  # compiles, and fills the caches
    for _ in range(rounds):
        for run in runs.values():
            run.advance(run.result.steps + TURN)
    return {rule: _milliseconds(run.result.step_seconds) for rule, run in runs.items()}


def _middle(rule: str) -> dict[str, Any]:
    """The middle of the rule's ranges. At a rate that is far too high a model computes with numbers near zero, which
    take some processors a hundred times as long."""
    one = contestant(rule)
    return one.settings([axis.middle for axis in one.space])


def _milliseconds(seconds: list[float]) -> float:
    turns = [sum(seconds[start : start + TURN]) / TURN for start in range(TURN, len(seconds), TURN)]
    return round(1e3 * statistics.median(turns), 3) if turns else float("nan")


def save(folder: Path, task: str, pace: Pace) -> Path:
    """Write the figures and the machine that they are of."""
    path = folder / f"pace-{task}.json"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"task": task, "machine": asdict(this_machine(torch.device("cpu"))), "milliseconds": pace}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def load(folder: Path) -> dict[str, Pace]:
    """The figures by task."""
    return {content["task"]: content["milliseconds"] for content in _saved(folder)}


def clocks(folder: Path) -> dict[str, str]:
    """The machine that the figures are of, by task."""
    return {content["task"]: Machine(**content["machine"]).title for content in _saved(folder)}


def _saved(folder: Path) -> list[Any]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("pace-*.json"))]
