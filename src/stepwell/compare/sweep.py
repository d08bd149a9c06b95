"""The search for each recipe's settings: the same number of tries for every recipe, and every try is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from torch.quasirandom import SobolEngine

from stepwell.compare.contestants import Axis, Contestant
from stepwell.compare.experiment import versions
from stepwell.compare.task import Task
from stepwell.compare.training import Run

FORMAT = 1
TRIES = 16
COMMITTED = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Try:
    """Settings, and the validation loss after a whole run at them (None where the run diverged)."""

    settings: dict[str, Any]
    loss: float | None


@dataclass(kw_only=True)
class Sweep:
    """All tries of all recipes, by the recipe's name, and what has to be known to repeat them."""

    task: str
    steps: int
    seed: int
    tries_each: int
    date: str
    versions: dict[str, str]
    tries: dict[str, list[Try]] = field(default_factory=dict)
    interrupted: bool = False

    def best(self, recipe: str) -> Try | None:
        """The try with the lowest loss, or None where every try of the recipe diverged or it was never tried."""
        finite = [
            (found.loss, index) for index, found in enumerate(self.tries.get(recipe, [])) if found.loss is not None
        ]
        return self.tries[recipe][min(finite)[1]] if finite else None

    def of(self, recipes: Sequence[str]) -> Sweep:
        """The tries of these recipes alone."""
        return replace(self, tries={name: self.tries[name] for name in recipes if name in self.tries})

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sweep:
        """The sweep that `to_json` wrote.

        Raises:
            ValueError: if the text is not of this format.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"a sweep must be of format {FORMAT}, written by stepwell compare --sweep")
        content["tries"] = {name: [Try(**found) for found in tries] for name, tries in content["tries"].items()}
        return cls(**content)


def committed_sweep() -> Sweep:
    """The sweep that comes with the package."""
    return Sweep.from_json(files("stepwell.compare").joinpath(COMMITTED).read_text(encoding="utf-8"))


def sweep(
    task: Task,
    contestants: Sequence[Contestant],
    *,
    tries: int,
    steps: int,
    seed: int,
    watch: Callable[[Sweep, Run], None] | None = None,
    done: Sweep | None = None,
    keep: Callable[[Sweep], None] | None = None,
) -> Sweep:
    """Searches each recipe's settings. On Ctrl-C (KeyboardInterrupt) the tries until then are returned.

    The first half of a recipe's tries are the points of a scrambled Sobol sequence over its ranges (on a logarithmic
    scale). The other half are such points in a box half as wide, centred at the best try so far; it may reach past the
    first ranges, so a best value at their edge is followed. Each try is a whole run, judged by its last loss.

    Args:
        task: what is trained.
        contestants: the recipes.
        tries: tries of each recipe, the same for all.
        steps: steps of each try.
        seed: of the weights, the batches and the Sobol sequence.
        watch: called after each step of each try, with the sweep so far and the try that runs.
        done: the tries of such a sweep that was interrupted, which are not made again.
        keep: called after each try with the sweep so far.

    Raises:
        ContestantError: a recipe has nothing to search, or cannot train the model.
    """
    date = datetime.now(UTC).date().isoformat()
    found = Sweep(task=task.name, steps=steps, seed=seed, tries_each=tries, date=date, versions=versions())
    known = {} if done is None else {name: list(made) for name, made in done.tries.items()}

    def loss_at(contestant: Contestant, settings: dict[str, Any]) -> float | None:
        if keep is not None:
            keep(found)  # the tries before this one
        if (before := known.get(contestant.name)) and before[0].settings == settings:
            return before.pop(0).loss
        run = Run(task, contestant, settings, steps=steps, seed=seed)
        run.advance(steps, None if watch is None else lambda run: watch(found, run))
        run.evaluate()
        return run.result.last_loss

    try:
        for contestant in contestants:
            search(contestant, tries, seed, found.tries.setdefault(contestant.name, []), loss_at)
        if keep is not None:
            keep(found)
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def search(
    contestant: Contestant,
    tries: int,
    seed: int,
    found: list[Try],
    loss_at: Callable[[Contestant, dict[str, Any]], float | None],
) -> None:
    """One recipe's tries, added to `found` one by one: the first half wide, the second around the best."""
    box = [(math.log(axis.low), math.log(axis.high)) for axis in contestant.searched()]
    best_loss, best_point = math.inf, [(low + high) / 2 for low, high in box]
    wide = -(-tries // 2)
    for count in (wide, tries - wide):
        for point in sobol_points(box, count, seed):
            settings = contestant.settings([math.exp(value) for value in point])
            loss = loss_at(contestant, settings)
            found.append(Try(settings=settings, loss=loss))
            if loss is not None and loss < best_loss:
                best_loss, best_point = loss, point
        box = narrowed(box, best_point, contestant.space)


def sobol_points(box: Sequence[tuple[float, float]], count: int, seed: int) -> list[list[float]]:
    """The first points of a scrambled Sobol sequence in the box."""
    if count == 0:
        return []
    engine = SobolEngine(len(box), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    unit = engine.draw(count).tolist()
    return [[low + part * (high - low) for part, (low, high) in zip(point, box, strict=True)] for point in unit]


def narrowed(
    box: Sequence[tuple[float, float]], centre: Sequence[float], space: Sequence[Axis]
) -> list[tuple[float, float]]:
    """The box half as wide around the centre, in logarithms; a decay rate stays a decay rate (1 − value below 1)."""
    found = []
    for (low, high), middle, axis in zip(box, centre, space, strict=True):
        quarter = (high - low) / 4
        top = middle + quarter
        found.append((middle - quarter, min(top, math.log(0.5)) if axis.complement else top))
    return found
