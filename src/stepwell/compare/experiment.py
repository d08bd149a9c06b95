"""All recipes on one task: the same weights, the same batches, turn by turn."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import stepwell
from stepwell.compare.contestants import Contestant, Settings
from stepwell.compare.results import Comparison
from stepwell.compare.task import Task
from stepwell.compare.training import Run, copied, make_model
from stepwell.compare.unfinished import Unfinished

EVALUATIONS = 25

Watch = Callable[[Run], None]


def compare(
    task: Task,
    contestants: Sequence[Contestant],
    settings: Mapping[str, Settings],
    *,
    steps: int,
    seed: int,
    sweep: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    unfinished: Unfinished | None = None,
) -> Comparison:
    """Trains the task's model under each recipe and returns all that was measured.

    The runs take turns: each trains up to the next evaluation, is evaluated, and waits for the others. So a machine
    that slows down slows all of them, and an interrupt finds all of them equally far. On Ctrl-C (KeyboardInterrupt)
    what was measured until then is returned, marked as interrupted.

    Args:
        task: what is trained.
        contestants: the recipes, the baseline first.
        settings: the hyper-parameters of each, by its name.
        steps: steps of each run, at least 1.
        seed: of the weights and the batches.
        sweep: the sweep that found the settings, kept with the results.
        watch: called with the run after each of its steps and evaluations.
        unfinished: keeps every run after each of its evaluations, and gives back what it has kept.

    Raises:
        TaskError: if the task's own functions fail or return the wrong thing.
        ContestantError: if a recipe cannot train the model.
        ResumeError: if what was kept is of another comparison.
    """
    if unfinished is not None:
        recipes = {each.name: each.recipe.hash for each in contestants}
        chosen = {each.name: dict(settings[each.name]) for each in contestants}
        unfinished.begin({"task": task.name, "steps": steps, "seed": seed, "recipes": recipes, "settings": chosen})
    comparison = conditions(task, contestants, steps=steps, seed=seed, sweep=sweep or {})
    try:
        weights = copied(make_model(task, seed).state_dict())
        comparison.versions |= gpus(value for value in weights.values() if isinstance(value, Tensor))
        for each in contestants:
            # The first steps of a recipe may compile kernels, once per machine: on a GPU what clips is compiled at the
            # second. That is no part of training.
            Run(task, each, settings[each.name], steps=steps, seed=seed).advance(min(2, steps))
        runs = [Run(task, each, settings[each.name], steps=steps, seed=seed, weights=weights) for each in contestants]
        for run in runs:
            if unfinished is not None:
                unfinished.restore(run)
                if watch is not None and run.result.steps:
                    watch(run)
        comparison.runs.extend(run.result for run in runs)
        for until in evaluation_steps(steps):
            for run in runs:
                if not run.ended and run.result.steps < until:
                    run.advance(until, watch)
                    run.evaluate()
                    if unfinished is not None:
                        unfinished.save(run)
                    if watch is not None:
                        watch(run)
    except KeyboardInterrupt:
        comparison.interrupted = True
    return comparison


def conditions(
    task: Task, contestants: Sequence[Contestant], *, steps: int, seed: int, sweep: Mapping[str, Any]
) -> Comparison:
    """A comparison before its first run."""
    clip_norms = {contestant.recipe.clip_norm for contestant in contestants}
    return Comparison(
        task=task.name,
        about=task.about,
        seed=seed,
        steps=steps,
        clip_norm=clip_norms.pop() if len(clip_norms) == 1 else None,
        versions=versions(),
        threads=torch.get_num_threads(),
        sweep=dict(sweep),
    )


def evaluation_steps(steps: int, points: int = EVALUATIONS) -> list[int]:
    """The steps after which runs are evaluated: about as many as `points`, evenly spaced, the last included."""
    count = min(points, steps)
    return sorted({round(steps * (turn + 1) / count) for turn in range(count)})


def gpus(tensors: Iterable[Tensor]) -> dict[str, str]:
    """The GPUs that hold these tensors, by name; empty where none does."""
    names = sorted({torch.cuda.get_device_name(tensor.device) for tensor in tensors if tensor.device.type == "cuda"})
    return {"GPU": ", ".join(names)} if names else {}


def versions() -> dict[str, str]:
    """The versions that the numbers depend on."""
    return {
        "stepwell": stepwell.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
