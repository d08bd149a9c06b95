"""What `stepwell compare` trains: the protocol of a task, and how a user's own is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepwell.importing import blaming, find_function, one_line

DEFAULT_TASK = "bytegpt"
# Stands in the place of a step in the seed of what a task is made from: no run is so long.
MAKING = 2**32 - 1


class TaskError(ValueError):
    """A task that cannot be found or used. The message is one line for its author."""


class DataEndedError(TaskError):
    """A task that has no batch for a step, as where its data end before the run does."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its batches, its loss and its validation: all that `stepwell compare --task module:function` needs.

    The function takes the seed and returns a task. A whole one, in `lines.py`, run with
    `stepwell compare --task lines:fit`:

        import torch
        from torch import nn
        from torch.nn.functional import mse_loss
        from stepwell.compare import Task

        def fit(seed):
            x = torch.linspace(-3, 3, 512).unsqueeze(1)
            y = torch.sin(2 * x)
            return Task(
                model=lambda: nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1)),
                batch=lambda step: torch.randint(512, (32,)),
                loss=lambda model, rows: mse_loss(model(x[rows]), y[rows]),
                validate=lambda model: mse_loss(model(x), y).item(),
                steps=300,
            )

    torch's random numbers are seeded before the function is called, so that data drawn in it are those of the seed;
    before the model is made; and again before every step, from the seed and the step. So every recipe starts from the
    same weights and sees the same data, the same batches and the same dropout.

    Args:
        model: makes the model, on the device that it shall train on.
        batch: the batch of a step (0, 1, …), of any type; steps may be asked for in any order, and more than once.
        loss: the training loss of a model on a batch, a scalar tensor.
        validate: the validation loss of a model, lower is better. It is called in evaluation mode, without gradients.
        name: what the report calls the task; `module:function` where it is empty.
        steps: how many steps a run takes unless `--steps` says otherwise.
        about: a sentence or two for the report: the model, the data, the unit of the loss.

    Raises:
        TaskError: if a field has the wrong type.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    validate: Callable[[nn.Module], float]
    name: str = ""
    steps: int = 300
    about: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("model", "batch", "loss", "validate"):
                if not callable(value):
                    raise TaskError(f"Task.{field.name} must be a function, got {value!r}")
            elif field.name == "steps":
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise TaskError(f"Task.steps must be a whole number of at least 1, got {value!r}")
            elif not isinstance(value, str):
                raise TaskError(f"Task.{field.name} must be a string, got {value!r}")


def seed_of(seed: int, step: int) -> int:
    """A seed for one step. torch's CPU generator reads 32 bits of a seed, so the two numbers are mixed into as many."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def load_task(spec: str, seed: int) -> Task:
    """The task that `spec` names: 'bytegpt', or 'module:function' with the current directory importable.

    Raises:
        TaskError: if there is no such task, or its function does not take the seed, fails, or returns no `Task`.
    """
    if spec == DEFAULT_TASK:
        from stepwell.compare import bytegpt

        return bytegpt.task(seed)
    function = find_function(spec, "task", "of the seed", TaskError, (DEFAULT_TASK,))
    _takes_the_seed(spec, function)
    torch.manual_seed(seed_of(seed, MAKING))
    with blame(spec):
        found = function(seed)
    if not isinstance(found, Task):
        raise TaskError(f"task {spec!r} must return a stepwell.compare.Task, got {type(found).__name__}")
    return found if found.name else replace(found, name=spec)


def _takes_the_seed(spec: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is not written in Python; the call will tell
        return
    try:
        signature.bind(0)
    except TypeError as error:
        raise TaskError(
            f"task {spec!r} must be a function that takes the seed and nothing else, got one that takes {signature}"
        ) from error


def batch_of(task: Task, step: int, place: str = "") -> Any:
    """The batch of a step.

    Args:
        task: whose.
        step: from 0.
        place: what an error adds to the step, such as ", the last of a run".

    Raises:
        DataEndedError: if there is none: StopIteration or IndexError.
        TaskError: if its code fails in another way.
    """
    try:
        return task.batch(step)
    except TaskError:
        raise
    except StopIteration as error:
        raise DataEndedError(f"task {task.name!r}: its data ended at step {step}{place}") from error
    except Exception as error:
        kind = DataEndedError if isinstance(error, IndexError) else TaskError
        raise kind(f"task {task.name!r} has no batch for step {step}{place}: {one_line(error)}") from error


@contextmanager
def blame(name: str) -> Iterator[None]:
    """Turns an error in a task's own code into one line that says where in it."""
    with blaming(f"task {name!r}", TaskError):
        yield
