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

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.drawing import drawn
from stepwell.compare.kept import HALF, LONGER, SEED, TRY, TWICE, DamagedError, Order, Outcome, Runs
from stepwell.compare.task import DataEndedError, Task
from stepwell.compare.training import Run

# What the best learning rate is multiplied by.
RATES = {HALF: 0.5, TWICE: 2.0}

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

    def stages(self) -> dict[str, tuple[int, int]]:
        """The seed and the horizon of every run of one recipe, by stage, in the order in which they are made."""
        again = (self.seed, self.steps)
        return {
            **{f"{TRY}{index:02}": again for index in range(self.tries)},
            **{f"{SEED}{index}": (self.seed + index, self.steps) for index in range(1, self.fresh + 1)},
            **dict.fromkeys(RATES, again),
            **({LONGER: (self.seed + 1, self.longer * self.steps)} if self.longer > 1 else {}),
        }


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
            ContestantError: the recipe has nothing to search, cannot train the model, diverged in all of its tries, or
                a run was left out.
        """
        stages = self.protocol.stages()
        points = drawn(contestant.searched(), self.protocol.tries, self.protocol.seed)
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
