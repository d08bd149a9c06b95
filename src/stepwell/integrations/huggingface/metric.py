"""transformers' schedules that listen to a metric."""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim import Optimizer

from stepwell.scheduler.plateau import Greedy, ReduceOnPlateau
from stepwell.text.naming import nearest


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **kwargs: Any) -> ReduceOnPlateau:
    """Lowers the rate when a metric has stopped getting better: `ReduceOnPlateau`, which takes the arguments."""
    check_known("reduce_lr_on_plateau", kwargs, metric_arguments("reduce_lr_on_plateau"))
    return ReduceOnPlateau(optimizer, **kwargs)


def get_greedy_schedule(optimizer: Optimizer, **kwargs: Any) -> Greedy:
    """Raises and lowers the rate by a metric: `Greedy`, under the names of transformers' `GreedyLR`.

    As there, the floor `min_lr` is 1e-3 unless given, which is more than most rates of Adam.
    """
    check_known("greedy", kwargs, metric_arguments("greedy"))
    ours = inspect.signature(Greedy).parameters
    options = {"min_lr": 1e-3} | {name: value for name, value in kwargs.items() if name in ours}
    window = kwargs.get("window_size", 50) if kwargs.get("smooth", False) else 1
    return Greedy(optimizer, window=window, reset_after=kwargs.get("reset_start", 500), **options)


def metric_arguments(schedule: str) -> list[str]:
    """What the schedule takes beside the optimizer, under transformers' names."""
    if schedule == "reduce_lr_on_plateau":
        return [name for name in inspect.signature(ReduceOnPlateau).parameters if name != "optimizer"]
    ours = [name for name in inspect.signature(Greedy).parameters if name not in ("optimizer", "window", "reset_after")]
    return [*ours, "smooth", "window_size", "reset_start", "verbose"]


def check_known(schedule: str, given: dict[str, Any], known: list[str]) -> None:
    """Raise TypeError for an argument that the schedule does not take."""
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise TypeError(f"unknown argument {name!r} for the schedule {schedule!r}; {takes}{nearest(name, known)}")
