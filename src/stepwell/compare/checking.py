"""Whether a task can be tested: what is tried out before hours are spent on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from stepwell.compare.contestants import Contestant
from stepwell.compare.fair import Protocol, TaskOf
from stepwell.compare.kept import KeptError, Outcome
from stepwell.compare.results import RunResult
from stepwell.compare.task import Task, TaskError, batch_of, seed_of
from stepwell.compare.training import Run

# Losses of two runs from one seed that differ by more than this part of themselves are not those of one computation.
SAME = 1e-5


def check(task_of: TaskOf, contestant: Contestant, protocol: Protocol, kept: Iterable[Outcome] = ()) -> Iterator[str]:
    """Tries a task out; yields what is said of it and does not stop the test.

    Args:
        task_of: the task of a seed.
        contestant: who takes the few steps.
        protocol: what is to be run.
        kept: outcomes that the test would take up.

    Raises:
        TaskError: its code fails, a loss is not finite before the first update, its batches do not last for one run,
            or two runs from one seed differ.
        KeptError: a kept run from the same seed began at another loss.
    """
    _same_batches(task_of, protocol)
    runs = [_begun(task_of(protocol.seed), contestant, protocol) for _ in range(2)]
    task = task_of(protocol.seed)
    for what, once, again in _pairs(*runs):
        if not _same(once, again):
            raise _not_deterministic(task, f"its {what} was {once:.6g} once and {again:.6g} again")
    untrained = runs[0].evaluations[0].loss
    for outcome in kept:
        if outcome.order.seed == protocol.seed and outcome.losses and not _same(untrained, outcome.losses[0][1]):
            raise KeptError(
                f"task {task.name!r} is another than that whose runs are kept: the loss of its untrained model is "
                f"{untrained:.6g}, and was {outcome.losses[0][1]:.6g} in {outcome.order.file!r}; give another "
                "--out, or remove the folder"
            )
    if protocol.longer > 1:
        last = protocol.longer * protocol.steps - 1
        try:
            batch_of(task, last)
        except TaskError as error:
            yield f"the run of {last + 1:,} steps is left out: {error}"


def _begun(task: Task, contestant: Contestant, protocol: Protocol) -> RunResult:
    """The first two steps of a run, evaluated before and after."""
    run = Run(task, contestant, {}, steps=protocol.steps, seed=protocol.seed)
    run.evaluate()
    if not run.result.evaluations:
        raise TaskError(f"task {task.name!r}: the validation loss is not finite before the first update")
    run.advance(min(2, protocol.steps))
    if not run.result.train_loss:
        raise TaskError(f"task {task.name!r}: the training loss is not finite before the first update")
    run.evaluate()
    return run.result


def _pairs(one: RunResult, other: RunResult) -> Iterator[tuple[str, float, float]]:
    """The losses of two runs, side by side."""
    yield "validation loss before the first update", one.evaluations[0].loss, other.evaluations[0].loss
    yield "training loss", one.train_loss[0], other.train_loss[0]
    if one.diverged_at is None and other.diverged_at is None:
        yield "training loss after an update", one.train_loss[-1], other.train_loss[-1]
        yield "validation loss", one.evaluations[-1].loss, other.evaluations[-1].loss


def _same_batches(task_of: TaskOf, protocol: Protocol) -> None:
    """The last batch of a run and one half way, drawn twice."""
    once, again = task_of(protocol.seed), task_of(protocol.seed)
    last = protocol.steps - 1
    for step, place in ((last, ", the last of a run"), (last // 2, "")):
        batches = []
        for task in (once, again):
            torch.manual_seed(seed_of(protocol.seed, step))
            batches.append(batch_of(task, step, place))
        if not _alike(*batches):
            raise _not_deterministic(once, f"its batch for step {step} was another when it was drawn again")


def _alike(one: Any, other: Any) -> bool:
    """Whether two batches of tensors, arrays and numbers are equal; others are not compared."""
    try:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        return False
    except Exception:  # no tensors, or kinds of them that cannot be compared: the losses are all the same
        return True
    return True


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)


def _not_deterministic(task: Task, how: str) -> TaskError:
    return TaskError(
        f"task {task.name!r} is not deterministic under a fixed seed: {how}; what its function draws as it makes the "
        "task must come from the seed that it takes, and what model, batch, loss and validate draw from torch, or from "
        "the seed and the step"
    )
