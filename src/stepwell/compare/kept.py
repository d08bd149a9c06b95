"""The runs of a fair test: what was ordered, what came of it, and the folder that keeps them, a file each."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stepwell.compare.contestants import ContestantError
from stepwell.compare.experiment import evaluation_steps, versions
from stepwell.compare.results import Evaluation

TRY, SEED, HALF, TWICE, LONGER = "try-", "seed-", "half", "twice", "longer"
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


class KeptError(ContestantError):
    """Runs that cannot be kept, or those that are kept are another test's. The message is one line."""


class DamagedError(KeptError):
    """A file that should hold a run and does not."""


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
