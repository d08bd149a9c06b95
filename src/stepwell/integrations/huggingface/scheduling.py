"""What `lr_scheduler_type=` names: one of transformers' schedules, or one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any

from torch.optim import Optimizer

from stepwell.integrations.huggingface.factory import SchedulerType, arguments_of, get_scheduler
from stepwell.integrations.huggingface.lambda_lr import LambdaScheduler
from stepwell.integrations.huggingface.metric import check_known
from stepwell.recipes import Recipe
from stepwell.schedules import Schedule, parse, warmup
from stepwell.schedules.schedule import given, made, schedule_class, schedule_names
from stepwell.text.naming import nearest

OF_RECIPE = "recipe"
"""The name that asks for the recipe's own schedules."""

_WHERE = " in lr_scheduler_kwargs"
_TRAINERS_WORDS = {
    "num_warmup_steps": "warmup_steps",
    "num_training_steps": "the number of training steps",
    "in scheduler_specific_kwargs": _WHERE.strip(),
    "one of min_lr and min_lr_rate": f"one of min_lr and min_lr_rate{_WHERE}",
}
"""What the makers of schedules call their arguments, and what who writes a Trainer's has to write."""


def name_of(given: Any) -> str:
    """The name as text, also where it is a member of transformers' enumeration."""
    return str(given.value if isinstance(given, Enum) else given)


class Name(str):
    """A name as text, of transformers' or ours. As a member of an enumeration it has a `value`, for transformers asks
    for that; unlike one, it is of a type that makes one of any other name, as a search over names does."""

    __slots__ = ()

    def __new__(cls, given: Any) -> Name:
        return super().__new__(cls, name_of(given))

    @property
    def value(self) -> str:
        return str(self)


def is_theirs(name: str) -> bool:
    """Whether transformers has a schedule of that name."""
    return name in [each.value for each in SchedulerType]


def named_schedule(name: str, arguments: Mapping[str, Any] | None) -> SchedulerType | Schedule:
    """The schedule of that name with these arguments.

    A name that both have is transformers', unless there are arguments that only ours takes. Ours may also be written
    out: "Cosine(warmup=0.1, end=0.1)".

    Raises:
        ValueError: an unknown name, with the nearest ones, or a value out of range.
        TypeError: an argument that the schedule does not take, or one that it needs and is missing.
    """
    options = dict(arguments or {})
    if is_theirs(name):
        kind = SchedulerType(name)
        takes = arguments_of(kind)
        if all(each in takes for each in options) or not _takes(name, options):
            check_known(name, options, list(dict.fromkeys((*takes, *_arguments(name)))))
            check_known(name, options, takes)  # of both at once neither takes some
            return kind
        return made(schedule_class(name), options, _WHERE)
    if "(" in name:
        if options:
            raise TypeError(f"{name!r} carries its own arguments: write {', '.join(options)} into it")
        return parse(name)
    if not _known(name):
        known = [*schedule_names(), *(each.value for each in SchedulerType)]
        raise ValueError(f"unknown lr_scheduler_type {name!r}{nearest(name, known, 3)}; known are {', '.join(known)}")
    return made(schedule_class(name), options, _WHERE)


def make_scheduler(
    optimizer: Optimizer, name: str, arguments: Mapping[str, Any] | None, *, horizon: int, warmup_steps: int
) -> Any:
    """The scheduler of that name over the whole training.

    Args:
        optimizer: any torch optimizer.
        name: one of transformers' or ours.
        arguments: what else the schedule takes.
        horizon: total optimizer steps, at least 1.
        warmup_steps: steps of linear warm-up; a schedule of ours that has none of its own gets one in front.

    Raises:
        ValueError, TypeError: as `named_schedule`; or the warm-up is given twice.
    """
    found = named_schedule(name, arguments)
    if isinstance(found, SchedulerType):
        try:
            return get_scheduler(found, optimizer, warmup_steps, horizon, dict(arguments or {}))
        except (TypeError, ValueError) as error:
            raise type(error)(_in_trainers_words(str(error))) from error
    if warmup_steps:
        if "warmup" in given(found):
            raise ValueError(f"the warm-up is given twice: {found!r}, and warmup_steps or warmup_ratio; leave one out")
        found = _with_warmup(found, warmup_steps)
    return LambdaScheduler(optimizer, found.resolve(horizon))


def warmed_up(recipe: Recipe, steps: int) -> Recipe:
    """The recipe whose schedules of the learning rate have so many steps of warm-up; 0 leaves them as they are."""
    if not steps:
        return recipe
    routes = tuple(replace(route, schedules=_warmed_up(route.schedules, steps)) for route in recipe.routes)
    return recipe.replace(schedules=_warmed_up(recipe.schedules, steps), routes=routes)


def _in_trainers_words(message: str) -> str:
    for words, trainers in _TRAINERS_WORDS.items():
        message = message.replace(words, trainers)
    return message


def _warmed_up(schedules: Mapping[str, Schedule], steps: int) -> dict[str, Schedule]:
    return {name: _with_warmup(one, steps) if name == "lr" else one for name, one in schedules.items()}


def _with_warmup(schedule: Schedule, steps: int) -> Schedule:
    if "warmup" not in {field.name for field in fields(schedule)}:
        return warmup(schedule, steps)
    changes: dict[str, Any] = {"warmup": steps}
    return replace(schedule, **changes)


def _known(name: str) -> bool:
    try:
        schedule_class(name)
    except ValueError:
        return False
    return True


def _takes(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a schedule of ours goes by that name and takes these arguments."""
    return _known(name) and set(arguments) <= set(_arguments(name))


def _arguments(name: str) -> list[str]:
    """What our schedule of that name takes; nothing where there is none."""
    return [field.name for field in fields(schedule_class(name))] if _known(name) else []
