"""The fair protocol: as many tries for every recipe, and what the best of them is worth on other seeds and horizons.

Of each recipe, on one task:

    try-00 …     whole runs at the points of `drawn`, each judged by its last validation loss
    half, twice  the best of them at half and at twice its learning rate
    seed-1 …     the best of them, from weights and on batches that no try has seen
    longer       the best of them over a longer horizon, not tuned again

Every run is a file of its own, which appears whole; a run that is there is not made again. So a test that was killed
goes on, and several processes may share a folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.drawing import drawn
from stepwell.compare.experiment import evaluation_steps, versions
from stepwell.compare.results import Evaluation
from stepwell.compare.task import Task, TaskError, blame
from stepwell.compare.training import Run

HALF, TWICE, LONGER = "half", "twice", "longer"
# How often a run that is drawn is evaluated.
POINTS = 15
# Losses of two runs from one seed that differ by more than this part of themselves are not those of one computation.
SAME = 1e-5

TaskOf = Callable[[int], Task]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is run of each recipe.

    Args:
        steps: the horizon of every run but the longer one, at least 1.
        tries: runs of the search, at least 1.
        seed: of the tries and of their points; the fresh seeds are those after it.
        fresh: how many fresh seeds, at least 1.
        longer: how many times as long the longer run is, at least 2; 1 leaves it out.
    """

    steps: int
    tries: int = 8
    seed: int = 0
    fresh: int = 3
    longer: int = 4

    def runs(self) -> int:
        """How many runs of `steps` steps one recipe costs, the longer one counted as what it takes."""
        return self.tries + 2 + self.fresh + (self.longer if self.longer > 1 else 0)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One whole run: of which recipe, at which settings, from which seed, over which horizon.

    `recipe_hash` is that of the recipe as it is written: a run of a recipe that has changed since is another run.
    """

    task: str
    recipe: str
    stage: str
    settings: dict[str, Any]
    seed: int
    steps: int
    recipe_hash: str

    @property
    def file(self) -> str:
        return f"{self.recipe}/{self.stage}.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run: its validation losses by step, from the untrained model's to the last, which counts.

    `diverged_at` counts the steps before the loss that was not finite; None where all were.
    """

    order: Order
    losses: tuple[tuple[int, float], ...]
    diverged_at: int | None
    state_bytes: int
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def loss(self) -> float | None:
        """The last validation loss, None where the run diverged."""
        return self.losses[-1][1] if self.losses and self.diverged_at is None else None

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, or the last one is above the untrained model's."""
        return self.loss is None or self.loss > self.losses[0][1]

    @property
    def evaluations(self) -> list[Evaluation]:
        """The losses as `stepwell.compare.results` has them, without a clock."""
        return [Evaluation(step=step, seconds=0.0, loss=loss) for step, loss in self.losses]

    def to_json(self) -> str:
        order = asdict(self.order)
        rest = asdict(self)
        del rest["order"]
        return json.dumps({**order, **rest}, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        content = json.loads(text)
        order = Order(**{name: content.pop(name) for name in Order.__dataclass_fields__})
        losses = tuple((step, loss) for step, loss in content.pop("losses"))
        return cls(order=order, losses=losses, **content)


class Runs:
    """A folder that holds the outcome of every run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def found(self, order: Order) -> Outcome | None:
        """The outcome of this run, if it was made.

        Raises:
            ContestantError: if the run that is kept under its name is another one.
        """
        path = self.folder / order.file
        if not path.is_file():
            return None
        kept = self.read(path)
        if kept.order != order:
            wanted, there = asdict(order), asdict(kept.order)
            name = next(name for name in wanted if wanted[name] != there[name])
            raise ContestantError(
                f"{str(path)!r} is a run with {name} {there[name]!r}, not {wanted[name]!r}; give another folder, or "
                "remove it"
            )
        return kept

    def keep(self, outcome: Outcome) -> None:
        """Write an outcome; its file is there whole or not at all."""
        path = self.folder / outcome.order.file
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(outcome.to_json(), encoding="utf-8")
        part.replace(path)

    def of(self, recipe: str) -> dict[str, Outcome]:
        """All that is kept of a recipe, by stage."""
        return {path.stem: self.read(path) for path in sorted((self.folder / recipe).glob("*.json"))}

    def read(self, path: Path) -> Outcome:
        try:
            return Outcome.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ContestantError(f"{str(path)!r} cannot be read as a run: {error}") from error


Watch = Callable[[Outcome, bool], None]


class FairTest:
    """The protocol on one task, recipe by recipe.

    Args:
        task_of: the task of a seed.
        protocol: how much is run.
        runs: where outcomes are kept.
        watch: called with every outcome, and whether it was made now rather than found.
    """

    def __init__(self, task_of: TaskOf, protocol: Protocol, runs: Runs, watch: Watch = lambda *_: None) -> None:
        self.task_of = task_of
        self.protocol = protocol
        self.runs = runs
        self.watch = watch

    def run(self, contestant: Contestant) -> None:
        """All runs of one recipe.

        Raises:
            TaskError: the task's own code fails.
            ContestantError: the recipe cannot train the model, or diverged in all of its tries.
        """
        protocol = self.protocol
        points = drawn(contestant.space, protocol.tries, protocol.seed)
        tries = [
            self.carry_out(f"try-{index:02}", contestant, contestant.settings(point))
            for index, point in enumerate(points)
        ]
        best = lowest(tries)
        if best is None:
            raise ContestantError(f"recipe {contestant.name!r} diverged in all of its {protocol.tries} tries")
        settings = best.order.settings
        for index in range(1, protocol.fresh + 1):
            self.carry_out(f"seed-{index}", contestant, settings, seed=protocol.seed + index)
        if "lr" in settings:
            for stage, factor in ((HALF, 0.5), (TWICE, 2.0)):
                self.carry_out(stage, contestant, {**settings, "lr": factor * settings["lr"]})
        if protocol.longer > 1:
            seed, steps = protocol.seed + 1, protocol.longer * protocol.steps
            self.carry_out(LONGER, contestant, settings, seed=seed, steps=steps)

    def carry_out(
        self,
        stage: str,
        contestant: Contestant,
        settings: Mapping[str, Any],
        *,
        seed: int | None = None,
        steps: int | None = None,
        task_of: TaskOf | None = None,
    ) -> Outcome:
        """One run, made unless it is there: by default from the seed of the tries and over their horizon.

        Args:
            stage: its name in the folder.
            contestant, settings: what trains.
            seed, steps: where the protocol's do not hold.
            task_of: a variation of the task.
        """
        drawn_from = self.protocol.seed if seed is None else seed
        task = (task_of or self.task_of)(drawn_from)
        order = Order(
            task=task.name,
            recipe=contestant.name,
            stage=stage,
            settings=dict(settings),
            seed=drawn_from,
            steps=steps or self.protocol.steps,
            recipe_hash=contestant.recipe.hash,
        )
        outcome = self.runs.found(order)
        made = outcome is None
        if outcome is None:
            outcome = trained(order, task, contestant)
            self.runs.keep(outcome)
        self.watch(outcome, made)
        return outcome


def trained(order: Order, task: Task, contestant: Contestant) -> Outcome:
    """The run of an order. It is evaluated before its first step and at the points of `evaluation_steps`; a try, which
    nobody draws, at its end."""
    run = Run(task, contestant, order.settings, steps=order.steps, seed=order.seed)
    run.evaluate()
    for until in [order.steps] if order.stage.startswith("try-") else evaluation_steps(order.steps, POINTS):
        run.advance(until)
        run.evaluate()
    result = run.result
    losses = tuple((one.step, float(f"{one.loss:.6g}")) for one in result.evaluations)
    return Outcome(order=order, losses=losses, diverged_at=result.diverged_at, state_bytes=result.state_bytes)


def lowest(outcomes: list[Outcome]) -> Outcome | None:
    """The run with the lowest last loss, the first where several have it; None where all diverged."""
    ended = [outcome for outcome in outcomes if outcome.loss is not None]
    return min(ended, key=lambda outcome: outcome.loss or 0.0, default=None)


def check(task_of: TaskOf, contestant: Contestant, protocol: Protocol) -> Iterator[str]:
    """Tries a task out before hours are spent on it; yields what is said of it and does not stop the test.

    Raises:
        TaskError: its code fails, its loss is not finite before the first update, its batches do not last for one run,
            or two runs from one seed differ.
    """
    task = task_of(protocol.seed)
    with blame(f"{task.name}: no batch for step {protocol.steps - 1}, the last of a run; it"):
        task.batch(protocol.steps - 1)
    runs = []
    for _ in range(2):
        run = Run(task_of(protocol.seed), contestant, {}, steps=protocol.steps, seed=protocol.seed)
        run.advance(min(2, protocol.steps))
        run.evaluate()
        if not run.result.train_loss:
            raise TaskError(f"task {task.name!r}: the training loss is not finite before the first update")
        runs.append(run.result)
    if runs[0].diverged_at is None and runs[1].diverged_at is None:
        pairs = [
            ("training loss", runs[0].train_loss[0], runs[1].train_loss[0]),
            ("training loss after an update", runs[0].train_loss[-1], runs[1].train_loss[-1]),
            ("validation loss", runs[0].evaluations[-1].loss, runs[1].evaluations[-1].loss),
        ]
        for what, once, again in pairs:
            if not math.isclose(once, again, rel_tol=SAME, abs_tol=SAME):
                raise TaskError(
                    f"task {task.name!r} is not deterministic under a fixed seed: its {what} was {once:.6g} once and "
                    f"{again:.6g} again; draw all random numbers from torch, or from the seed and the step"
                )
    if protocol.longer > 1:
        last = protocol.longer * protocol.steps - 1
        try:
            with blame(task.name):
                task.batch(last)
        except TaskError as error:
            yield f"no batch for step {last}, so the run of {last + 1:,} steps is left out: {error}"
