"""Schedules by transformers' names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any

from torch.optim import Optimizer

from stepwell.integrations.huggingface import schedules
from stepwell.integrations.huggingface.metric import (
    check_known,
    get_greedy_schedule,
    get_reduce_on_plateau_schedule,
    metric_arguments,
)
from stepwell.text.naming import nearest


class SchedulerType(str, Enum):  # noqa: UP042 - transformers' is a str that prints as the member
    """The names that `get_scheduler` takes, as in transformers."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"
    GREEDY = "greedy"

    @classmethod
    def _missing_(cls, value: object) -> None:
        names = [one.value for one in cls]
        raise ValueError(f"unknown schedule {value!r}; there are {', '.join(names)}{nearest(str(value), names)}")


_MAKERS: dict[SchedulerType, Callable[..., Any]] = {
    SchedulerType.LINEAR: schedules.get_linear_schedule_with_warmup,
    SchedulerType.COSINE: schedules.get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: schedules.get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.POLYNOMIAL: schedules.get_polynomial_decay_schedule_with_warmup,
    SchedulerType.CONSTANT: schedules.get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: schedules.get_constant_schedule_with_warmup,
    SchedulerType.INVERSE_SQRT: schedules.get_inverse_sqrt_schedule,
    SchedulerType.REDUCE_ON_PLATEAU: get_reduce_on_plateau_schedule,
    SchedulerType.COSINE_WITH_MIN_LR: schedules.get_cosine_with_min_lr_schedule_with_warmup,
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: schedules.get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    SchedulerType.WARMUP_STABLE_DECAY: schedules.get_wsd_schedule,
    SchedulerType.GREEDY: get_greedy_schedule,
}
_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_WITHOUT_WARMUP = {
    SchedulerType.CONSTANT: "'constant_with_warmup' has one",
    SchedulerType.REDUCE_ON_PLATEAU: "leave it out: it goes by the metric alone",
    SchedulerType.GREEDY: "'warmup' among its arguments counts metrics",
}


def get_scheduler(
    name: str | SchedulerType,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> Any:
    """A scheduler by its name.

    Args:
        name: one of `SchedulerType`, or its value.
        optimizer: any `torch.optim.Optimizer`.
        num_warmup_steps: steps of the warm-up; needed by all but "constant", "reduce_lr_on_plateau" and "greedy", which
            have none.
        num_training_steps: total optimizer steps; needed by what ends there.
        scheduler_specific_kwargs: what else the schedule takes; nothing of it is dropped, also for constant schedules.

    Raises:
        ValueError: an unknown name, a value out of range, or steps that are needed and missing.
        TypeError: an argument that the schedule does not take, or one that it needs and is missing.
    """
    kind = SchedulerType(name.value if isinstance(name, Enum) else name)  # transformers' own members are welcome
    make = _MAKERS[kind]
    given = dict(scheduler_specific_kwargs or {})
    check_known(kind.value, given, arguments_of(kind))
    check_warmup(kind.value, num_warmup_steps)
    if kind in _METRIC:
        return make(optimizer, **given)
    parameters = inspect.signature(make).parameters
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for step, value in steps.items():
        if value is None and step in parameters and parameters[step].default is inspect.Parameter.empty:
            raise ValueError(f"the schedule {kind.value!r} needs {step}, got None")
    needed = [
        name for name, one in parameters.items() if one.default is one.empty and name not in ("optimizer", *steps)
    ]
    if missing := [name for name in needed if name not in given]:
        raise TypeError(
            f"the schedule {kind.value!r} needs {' and '.join(missing)}: give {'=…, '.join(missing)}=… in "
            "scheduler_specific_kwargs"
        )
    return make(optimizer, **{step: value for step, value in steps.items() if step in parameters}, **given)


def check_warmup(name: str, num_warmup_steps: float | None) -> None:
    """Raise ValueError for a warm-up of a schedule that has none."""
    if num_warmup_steps and SchedulerType(name) in _WITHOUT_WARMUP:
        raise ValueError(
            f"the schedule {name!r} has no warm-up, got num_warmup_steps={num_warmup_steps}; "
            f"{_WITHOUT_WARMUP[SchedulerType(name)]}"
        )


def arguments_of(kind: SchedulerType) -> list[str]:
    """What a schedule takes beside the optimizer and the numbers of steps."""
    if kind in _METRIC:
        return metric_arguments(kind.value)
    beside = ("optimizer", "num_warmup_steps", "num_training_steps")
    return [name for name in inspect.signature(_MAKERS[kind]).parameters if name not in beside]
