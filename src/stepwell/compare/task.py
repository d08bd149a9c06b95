"""What `stepwell compare` trains: the protocol of a task, and how a user's own is found."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from stepwell.naming import nearest

DEFAULT_TASK = "bytegpt"


class TaskError(ValueError):
    """A task that cannot be found or used. The message is one line for its author."""


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

    torch's random numbers are seeded before the model is made and again before every step, from the seed and the step,
    so every recipe starts from the same weights and sees the same batches and the same dropout.

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
        TaskError: if there is no such task, or its function does not return a `Task`.
    """
    if spec == DEFAULT_TASK:
        from stepwell.compare import bytegpt

        return bytegpt.task(seed)
    function = find_function(spec)
    with blame(spec):
        found = function(seed)
    if not isinstance(found, Task):
        raise TaskError(f"task {spec!r} must return a stepwell.compare.Task, got {type(found).__name__}")
    return found if found.name else replace(found, name=spec)


def find_function(spec: str, kind: str = "task", names: Sequence[str] = (DEFAULT_TASK,)) -> Callable[..., object]:
    """The function that `spec` ('module:function') names; `kind` is what it makes, `names` what else is allowed."""
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name.isidentifier()):
        known = [*map(repr, names), "module:function"]
        allowed = f"allowed {'are' if names else 'is'} {' and '.join(known)}"
        raise TaskError(f"unknown {kind} {spec!r}; {allowed}{nearest(spec, names)}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise TaskError(f"cannot import {kind} module {module_name!r}: {error}") from error
        modules = (path.stem for path in Path(here).glob("*.py"))
        raise TaskError(
            f"unknown {kind} module {module_name!r}: no such module in {here} or among the installed packages"
            f"{nearest(module_name, modules)}"
        ) from error
    except Exception as error:
        raise TaskError(f"cannot import {kind} module {module_name!r}: {one_line(error)}") from error
    function = getattr(module, name, None)
    if function is None:
        functions = (key for key, value in vars(module).items() if callable(value))
        raise TaskError(f"{kind} module {module_name!r} has no function {name!r}{nearest(name, functions)}")
    if not callable(function):
        raise TaskError(f"{kind} {spec!r} must be a function, got {type(function).__name__}")
    return function  # type: ignore[no-any-return]


@contextmanager
def blame(what: str, kind: str = "task") -> Iterator[None]:
    """Turns an error in a user's own code into one line that says where in it."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"{kind} {what!r} failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The error's type and message on one line, with the last line of the user's own code that led to it."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {message}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path.cwd())] or frames
    return f"{type(error).__name__}: {message} ({Path(own[-1].filename).name}:{own[-1].lineno})"
