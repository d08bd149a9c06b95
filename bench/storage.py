"""`python -m bench storage`: what training loses where its state is stored in fewer bits.

The default task of `stepwell compare`, trained from the same weights on the same batches with the state in float32 and
in each other storage. One training more or less by chance ends a little lower, so each is run from several seeds, and
what is compared are the means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.records import StorageRow
from stepwell.codecs import StateDtype
from stepwell.compare.bytegpt import task
from stepwell.compare.contestants import CLIP_NORM, CONTESTANTS, Contestant
from stepwell.compare.sweep import committed_sweep
from stepwell.compare.task import Task
from stepwell.compare.training import Run
from stepwell.recipes import PRESETS

STORAGES: tuple[StateDtype, ...] = ("float32", "bfloat16", "8bit", "4bit")


@dataclass(frozen=True)
class Subject:
    """A rule under the settings that it is trained with."""

    contestant: Contestant
    settings: Mapping[str, Any]


def subjects() -> list[Subject]:
    """AdamW and Lion at the best of the committed sweep, and LAMB, which has none, at AdamW's momenta."""
    sweep = committed_sweep()
    tuned = [Subject(CONTESTANTS[name], found.settings) for name in ("adamw", "lion") if (found := sweep.best(name))]
    betas = tuned[0].settings["betas"]
    recipe = PRESETS["lamb"].replace(clip_norm=CLIP_NORM)
    lamb = replace(CONTESTANTS["adamw"], name="lamb", title="LAMB + cosine", recipe=recipe)
    return [*tuned, Subject(lamb, {"lr": 0.02, "weight_decay": 0.1, "betas": betas})]


def measure(steps: int, seeds: Sequence[int]) -> Iterator[StorageRow]:
    """One row for each rule and storage."""
    tasks = {seed: task(seed) for seed in seeds}
    for subject in subjects():
        wide: tuple[float, ...] = ()
        for storage in STORAGES:
            runs = [_trained(tasks[seed], subject, storage, steps, seed) for seed in seeds]
            losses = tuple(loss for loss, _ in runs)
            wide = wide or losses  # the first is float32
            task_name = tasks[seeds[0]].name
            yield StorageRow(subject.contestant.title, task_name, storage, steps, losses, wide, runs[0][1])


def _trained(task: Task, subject: Subject, storage: StateDtype, steps: int, seed: int) -> tuple[float, int]:
    """The last validation loss, and the bytes of state."""
    recipe = subject.contestant.recipe.replace(state_dtype=storage)
    contestant = replace(subject.contestant, recipe=recipe)
    run = Run(task, contestant, subject.settings, steps=steps, seed=seed)
    run.advance(steps)
    run.evaluate()
    loss = run.result.last_loss
    if loss is None:
        raise RuntimeError(f"{subject.contestant.title} with its state in {storage} has diverged (seed {seed})")
    return loss, run.result.state_bytes
