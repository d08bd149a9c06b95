"""The fair protocol: as many tries for every recipe, and what the best of them is worth on other seeds and horizons.

Of each recipe, on one task:

    try-00 …     whole runs at the points of `drawn`, each judged by its last validation loss
    half, twice  the best of them at half and at twice its learning rate
    seed-1 …     the best of them, from weights and on batches that no try has seen
    longer       the best of them over a longer horizon, not tuned again

Every run is a file of its own, which appears whole; a run that is there is not made again. So a test that was killed
goes on, tries can be added, and several processes may share a folder. What follows the tries belongs to the settings
of the best of them: where more tries find a better one, it is made anew in the place of what was kept.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.drawing import drawn
from stepwell.compare.experiment import evaluation_steps, versions
from stepwell.compare.results import Evaluation
from stepwell.compare.task import DataEndedError, Task
from stepwell.compare.training import Run

TRY, SEED, HALF, TWICE, LONGER = "try-", "seed-", "half", "twice", "longer"
# What the best learning rate is multiplied by.
RATES = {HALF: 0.5, TWICE: 2.0}
# How often a run that is drawn is evaluated.
POINTS = 15
# Of the fields in a file; the others are strings.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "settings": dict,
    "seed": int,
    "steps": int,
    "losses": list,
    "diverged_at": (int, type(None)),
    "state_bytes": int,
    "versions": dict,
}
_STAGE = re.compile(rf"{TRY}\d+|{SEED}\d+|{HALF}|{TWICE}|{LONGER}")

TaskOf = Callable[[int], Task]


class KeptError(ContestantError):
    """Runs that cannot be kept, or those that are kept are another test's. The message is one line."""


class DamagedError(KeptError):
    """A file that should hold a run and does not."""


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

    def stages(self) -> dict[str, tuple[int, int]]:
        """The seed and the horizon of every run of one recipe, by stage, in the order in which they are made."""
        again = (self.seed, self.steps)
        return {
            **{f"{TRY}{index:02}": again for index in range(self.tries)},
            **{f"{SEED}{index}": (self.seed + index, self.steps) for index in range(1, self.fresh + 1)},
            **dict.fromkeys(RATES, again),
            **({LONGER: (self.seed + 1, self.longer * self.steps)} if self.longer > 1 else {}),
        }


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

    @property
    def is_try(self) -> bool:
        return self.stage.startswith(TRY)

    @property
    def evaluated(self) -> list[int]:
        """The steps after which the run is evaluated: before its first, and at the points of `evaluation_steps`; a try,
        which nobody draws, at its end."""
        return [0, *([self.steps] if self.is_try else evaluation_steps(self.steps, POINTS))]


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
    def divergence(self) -> str:
        """Which loss was not finite, and where; empty where all were."""
        if self.diverged_at is None:
            return ""
        # A training loss is seen after the evaluation at its step, so that one has its place among the losses.
        missing = self.diverged_at in self.order.evaluated and self.diverged_at not in dict(self.losses)
        return f"the {'validation' if missing else 'training'} loss was not finite at step {self.diverged_at}"

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
        """The outcome that `to_json` wrote.

        Raises:
            ValueError: if the text holds none.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, not a run")
        for name in (*Order.__dataclass_fields__, "losses", "diverged_at", "state_bytes"):
            if name not in content:
                raise ValueError(f"it has no {name!r}")
        for name, value in content.items():
            if not isinstance(value, _KINDS.get(name, str)):
                raise ValueError(f"its {name!r} is {value!r}")
        losses = tuple((step, loss) for step, loss in content.pop("losses"))
        if not all(
            isinstance(step, int) and isinstance(loss, int | float) and math.isfinite(loss) for step, loss in losses
        ):
            raise ValueError("its losses are not pairs of a step and a number")
        order = Order(**{name: content.pop(name) for name in Order.__dataclass_fields__})
        return cls(order=order, losses=losses, **content)


class Runs:
    """A folder that holds the outcome of every run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def found(self, order: Order) -> Outcome | None:
        """The outcome of this run, if it was made. One that follows the tries and differs in its settings alone is
        stale: it belongs to a try that is no longer the best, and counts as not made.

        Raises:
            KeptError: if the run that is kept under its name is another one, or damaged.
        """
        kept = self.under(order)
        if kept is None or kept.order == order:
            return kept
        if order.is_try:
            raise self._another(order, kept.order, "settings")
        return None

    def under(self, order: Order) -> Outcome | None:
        """The outcome that is kept under the name of this run, whatever its settings.

        Raises:
            KeptError: if it is another run than this one in anything else, or damaged.
        """
        path = self.folder / order.file
        try:
            if not path.is_file():
                return None
        except OSError as error:
            raise self._unusable(error) from error
        kept = self.read(path)
        if (there := replace(kept.order, settings=order.settings)) != order:
            raise self._another(
                order, there, next(name for name, value in asdict(order).items() if asdict(there)[name] != value)
            )
        return kept

    def make_room(self, order: Order) -> None:
        """The folder of this run, made if need be, so that hours of training do not end in a file that cannot be
        written.

        Raises:
            KeptError: if that cannot be.
        """
        try:
            (self.folder / order.file).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def keep(self, outcome: Outcome) -> None:
        """Write an outcome; its file is there whole or not at all.

        Raises:
            KeptError: if it cannot be written.
        """
        path = self.folder / outcome.order.file
        part = path.with_name(f".{path.name}.{os.getpid()}")
        self.make_room(outcome.order)
        try:
            part.write_text(outcome.to_json(), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise KeptError(f"cannot write {str(path)!r}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def of(self, recipe: str) -> dict[str, Outcome]:
        """All that is kept of a recipe, by stage. A file that neither is called as a stage of the protocol nor says
        that it holds one of its name is no run, and is left alone.

        Raises:
            DamagedError: if a run cannot be read.
        """
        paths = sorted((self.folder / recipe).glob("*.json"))
        return {path.stem: self.read(path) for path in paths if _STAGE.fullmatch(path.stem) or _says_stage(path)}

    def read(self, path: Path) -> Outcome:
        """The outcome in this file.

        Raises:
            DamagedError: if there is none.
        """
        try:
            return Outcome.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedError(f"{str(path)!r} cannot be read as a run: {error}; remove it to run it again") from error

    def _another(self, order: Order, there: Order, field: str) -> KeptError:
        path, of_recipe = self.folder / order.file, field in ("recipe_hash", "settings")
        return KeptError(
            f"{str(path)!r} is a run with {field} {getattr(there, field)!r}, not {getattr(order, field)!r}; "
            f"give another --out, or remove {str(path.parent if of_recipe else self.folder)!r}"
        )

    def _unusable(self, error: OSError) -> KeptError:
        return KeptError(f"runs cannot be kept in {str(self.folder)!r}: {error.strerror}; give another --out")


def _says_stage(path: Path) -> bool:
    try:
        return f'"stage": "{path.stem}"' in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


Watch = Callable[[Outcome, bool], None]


class FairTest:
    """The protocol on one task, recipe by recipe.

    Args:
        task_of: the task of a seed.
        protocol: how much is run.
        runs: where outcomes are kept.
        watch: called with every outcome, and whether it was made now rather than found.

    Attributes:
        outcomes: what was made or found, by recipe and stage; what else the folder holds is not this test's.
    """

    def __init__(self, task_of: TaskOf, protocol: Protocol, runs: Runs, watch: Watch = lambda *_: None) -> None:
        self.task_of = task_of
        self.protocol = protocol
        self.runs = runs
        self.watch = watch
        self.outcomes: dict[str, dict[str, Outcome]] = {}

    def kept(self, contestants: Iterable[Contestant]) -> list[Outcome]:
        """What is kept under the names of this test's own runs. One that cannot be read is passed over: `run` tells.

        Raises:
            KeptError: if a run is kept under such a name that is another task's, recipe's, seed's or horizon's.
        """
        task = self.task_of(self.protocol.seed).name
        found = []
        for contestant in contestants:
            for stage, (seed, steps) in self.protocol.stages().items():
                order = Order(
                    task=task,
                    recipe=contestant.name,
                    stage=stage,
                    settings={},
                    seed=seed,
                    steps=steps,
                    recipe_hash=contestant.recipe.hash,
                )
                with suppress(DamagedError):
                    found.append(self.runs.under(order))
        return [outcome for outcome in found if outcome is not None]

    def run(self, contestant: Contestant) -> None:
        """All runs of one recipe. One that is damaged, and a longer run whose data end, is left out and told of at
        the end; a damaged try leaves the best unknown, so that nothing follows the tries.

        Raises:
            TaskError: the task's own code fails.
            KeptError: what is kept is another test's, or nothing can be kept.
            ContestantError: the recipe cannot train the model, diverged in all of its tries, or a run was left out.
        """
        stages = self.protocol.stages()
        points = drawn(contestant.space, self.protocol.tries, self.protocol.seed)
        problems: list[str] = []
        tries = []
        for stage, point in zip(stages, points, strict=False):  # the tries come first
            try:
                tries.append(self.carry_out(stage, contestant, contestant.settings(point)))
            except DamagedError as error:
                problems.append(str(error))
        if problems:
            raise ContestantError("; ".join(problems))
        best = lowest(tries)
        if best is None:
            raise ContestantError(
                f"recipe {contestant.name!r} diverged in all of its {len(tries)} tries: in {tries[0].order.stage} "
                f"{tries[0].divergence}"
            )
        for stage, (seed, steps) in list(stages.items())[len(tries) :]:
            settings = best.order.settings
            if stage in RATES:
                if "lr" not in settings:
                    continue
                settings = {**settings, "lr": RATES[stage] * settings["lr"]}
            try:
                self.carry_out(stage, contestant, settings, seed=seed, steps=steps)
            except DamagedError as error:
                problems.append(str(error))
            except DataEndedError as error:
                if stage != LONGER:
                    raise
                problems.append(f"recipe {contestant.name!r}: the longer run is left out: {error}")
        if problems:
            raise ContestantError("; ".join(problems))

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
            self.runs.make_room(order)
            outcome = trained(order, task, contestant)
            self.runs.keep(outcome)
        self.outcomes.setdefault(order.recipe, {})[order.stage] = outcome
        self.watch(outcome, made)
        return outcome


def trained(order: Order, task: Task, contestant: Contestant) -> Outcome:
    """The run of an order."""
    run = Run(task, contestant, order.settings, steps=order.steps, seed=order.seed)
    for until in order.evaluated:
        run.advance(until)
        run.evaluate()
    result = run.result
    losses = tuple((one.step, float(f"{one.loss:.6g}")) for one in result.evaluations)
    return Outcome(order=order, losses=losses, diverged_at=result.diverged_at, state_bytes=result.state_bytes)


def lowest(outcomes: list[Outcome]) -> Outcome | None:
    """The run with the lowest last loss, the first where several have it; None where all diverged."""
    ended = [outcome for outcome in outcomes if outcome.loss is not None]
    return min(ended, key=lambda outcome: outcome.loss or 0.0, default=None)
