"""The schedules of a scheduler in its saved state: as text, compared on a resume, read again where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from stepwell.scheduler.tracks import Selector, labels
from stepwell.schedules import Function, Schedule, parse
from stepwell.schedules.function import function_name

Chosen = Mapping[str, Mapping[Selector, Schedule]]
"""For each hyper-parameter the schedules of the groups, by what selects them."""


def written(chosen: Chosen) -> dict[str, Any]:
    """The schedules as the code that makes them: one for a hyper-parameter, or one for each selector."""
    return {
        name: repr(those["*"])
        if list(those) == ["*"]
        else dict(zip(labels(those), map(repr, those.values()), strict=True))
        for name, those in chosen.items()
    }


def check_same(ours: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise ValueError where the saved schedules are not ours."""
    _check(saved)
    for name in {**ours, **saved}:
        there, here = saved.get(name, "none"), ours.get(name, "none")
        if there != here:
            raise ValueError(
                f"the saved schedule of {name} is {there}, this scheduler's is {here}; "
                "load_state_dict(state, schedule='this') goes on with this scheduler's, schedule='saved' with the saved"
            )


def read(saved: Mapping[str, Any], chosen: Chosen) -> dict[str, dict[Selector, Schedule]]:
    """The schedules that were saved, for the hyper-parameters and under the selectors of `chosen`.

    Raises ValueError where they were saved for others, hold a Python function that `chosen` does not, or are no text.
    """
    _check(saved)
    known = [one for those in chosen.values() for schedule in those.values() for one in _functions(schedule)]
    functions = {function_name(one.function): one.function for one in known}
    found: dict[str, dict[Selector, Schedule]] = {}
    for name, those in chosen.items():
        texts = saved.get(name, {})
        texts = {"*": texts} if isinstance(texts, str) else texts
        ours = labels(those)
        if list(texts) != ours:
            raise ValueError(
                f"schedules of {name} were saved for {', '.join(texts) or 'no group'}, and this scheduler has them for "
                f"{', '.join(ours)}: name the same groups here"
            )
        found[name] = {key: parse(text, functions=functions) for key, text in zip(those, texts.values(), strict=True)}
    if missing := [name for name in saved if name not in found]:
        raise ValueError(f"a schedule of {', '.join(missing)} was saved too: give this scheduler one, of any shape")
    return found


def _check(saved: Any) -> None:
    """Raise ValueError where what was saved is no text for each hyper-parameter, or for each selector of it."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"not the state of a stepwell Scheduler: its schedules are {saved!r}")
    for name, texts in saved.items():
        if not all(isinstance(text, str) for text in (texts.values() if isinstance(texts, Mapping) else [texts])):
            raise ValueError(f"not the state of a stepwell Scheduler: its schedule of {name} is {texts!r}")


def _functions(schedule: Any) -> list[Function]:
    """The Python functions that a schedule is made of."""
    if isinstance(schedule, Function):
        return [schedule]
    if isinstance(schedule, tuple):
        return [found for one in schedule for found in _functions(one)]
    if not is_dataclass(schedule):
        return []
    return [found for field in fields(schedule) for found in _functions(getattr(schedule, field.name))]
