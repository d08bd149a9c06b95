"""What a field of a recipe may hold, brought into one form: texts, tables, selectors, schedules, values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from stepwell.recipes.mistakes import Mistakes
from stepwell.rules.rule import Rule
from stepwell.scheduler.tracks import entry_called
from stepwell.schedules import Schedule
from stepwell.schedules import parse as parse_schedule
from stepwell.select import Selector
from stepwell.select import parse as parse_selector
from stepwell.text.values import shown


def as_text(name: str, given: Any, found: Mistakes) -> str:
    """A text as it is."""
    if not isinstance(given, str):
        found.found.append(f"{name} must be a text, got {shown(given)}")
    return str(given)


def as_table(name: str, given: Any, found: Mistakes) -> dict[str, Any]:
    """A mapping with texts for keys, whose values are plain."""
    if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
        return {key: plain(value) for key, value in given.items()}
    found.found.append(f"{name} must map names to values, got {shown(given)}")
    return {}


def as_selector(given: Any) -> Selector:
    """A selector, also from the text that it prints as."""
    if isinstance(given, str):
        return parse_selector(given)
    if not isinstance(given, Selector):
        raise TypeError(f"must be a selector such as stepwell.select.role('norm'), or its text, got {shown(given)}")
    return given


def as_schedules(given: Any, found: Mistakes) -> dict[str, Schedule]:
    """Schedules by hyper-parameter, also from the texts that they print as."""
    schedules: dict[str, Schedule] = {}
    for name, one in as_table("schedules", given, found).items():
        with found.at(f"schedules.{name}"):
            if isinstance(one, str):
                one = parse_schedule(one)
            if not isinstance(one, Schedule):
                raise TypeError(f"must be a schedule such as Cosine(warmup=0.1), or its text, got {shown(one)}")
            schedules[name] = one
    return schedules


def check_scheduled(schedules: Mapping[str, Schedule], rules: list[Rule], found: Mistakes, place: str) -> None:
    """Each schedule moves a number of the rules that have its hyper-parameter."""
    for name in schedules:
        entry = entry_called(name)
        values = {type(rule): rule.values() for rule in rules if entry.name in rule.field_names()}
        if values and not any(map(entry.stands_in, values.values())):
            rule, value = next((rule.__name__, value[entry.name]) for rule, value in values.items())
            elements = [f"{entry.name}[{index}]" for index in range(len(value))] if isinstance(value, tuple) else []
            way_out = f"; schedule {' or '.join(elements)}" if elements else ""
            found.found.append(f"{place}: {name} of {rule} is no number, but {value!r}{way_out}")


def plain(value: Any) -> Any:
    """A value as files hold it: tuples for lists, Python's numbers for those of NumPy and of tensors."""
    if isinstance(value, (list, tuple)):
        return tuple(plain(one) for one in value)
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return value.item()
    return value
