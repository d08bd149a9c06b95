"""Where a schedule writes: one hyper-parameter, or one element of it, in the parameter groups that are selected."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.schedules.function import Function, function_name
from stepwell.schedules.schedule import Schedule
from stepwell.text.naming import nearest
from stepwell.text.values import shown

Group = dict[str, Any]
Selector = str | int | Callable[[Group], bool]
"""A group's name, as it is or with wildcards ("*norm*"); its index; or a function of the group that says yes or no."""


@dataclass(frozen=True)
class Entry:
    """One number in a parameter group: a hyper-parameter, or the element of one that is a tuple."""

    name: str
    index: int | None = None

    @cached_property
    def base_name(self) -> str:
        return f"initial_{self.name}"

    def stands_in(self, group: Mapping[str, Any]) -> bool:
        value = group.get(self.name)
        if self.index is None:
            return is_number(value)
        return isinstance(value, (tuple, list)) and self.index < len(value) and is_number(value[self.index])

    def base(self, group: Group) -> Any:
        """The value that factors multiply: kept in the group from when it is first seen."""
        if self.base_name not in group:
            group[self.base_name] = plain(group[self.name])
        return plain(self._pick(group[self.base_name]))

    def set_base(self, group: Group, value: float) -> None:
        self.base(group)
        group[self.base_name] = self._put(group[self.base_name], value)

    def read(self, group: Mapping[str, Any]) -> Any:
        return self._pick(group[self.name])

    def write(self, group: Group, value: Any) -> None:
        live = self.read(group)
        if isinstance(live, Tensor):
            live.fill_(value)  # in place, as torch does: a captured graph reads this very tensor
        else:
            group[self.name] = self._put(group[self.name], value)

    def as_tensor(self, group: Group) -> None:
        """Let the number be a tensor from now on, beside the group's first parameter."""
        live = self.read(group)
        if not isinstance(live, Tensor):
            device = next((p.device for p in group["params"]), None)
            number = torch.tensor(
                float(live), device=device, dtype=torch.promote_types(torch.get_default_dtype(), torch.float32)
            )
            group[self.name] = self._put(group[self.name], number)

    def _pick(self, value: Any) -> Any:
        return value if self.index is None else value[self.index]

    def _put(self, whole: Any, value: Any) -> Any:
        if self.index is None:
            return value
        return type(whole)((*whole[: self.index], value, *whole[self.index + 1 :]))


@dataclass
class Track:
    """A schedule, what it writes, and the groups that it writes to at present."""

    entry: Entry
    schedule: Schedule
    groups: list[Group] = field(default_factory=list)

    def write(self, step: int) -> None:
        """Set the values of `step`."""
        factor = self.schedule(step)
        entry = self.entry
        if entry.index is None:
            name, base_name = entry.name, entry.base_name
            for group in self.groups:
                if group[name].__class__ is float:  # by far the most usual, in every step of a training
                    group[name] = group[base_name] * factor
                elif entry.stands_in(group):
                    entry.write(group, entry.base(group) * factor)
            return
        for group in self.groups:
            if entry.stands_in(group):
                entry.write(group, entry.base(group) * factor)


def entry_called(name: str) -> Entry:
    """The entry that a name speaks of: a hyper-parameter's, or that of an element such as `betas[0]`."""
    match = re.fullmatch(r"(\w+)\[(\d+)\]", name)
    return Entry(match[1], int(match[2])) if match else Entry(name)


def find_entry(name: str, groups: Sequence[Mapping[str, Any]], where: str = "no group of the optimizer has") -> Entry:
    """The entry called `name`. Raises TypeError, which begins with `where`, where no group has it as a number."""
    entry = entry_called(name)
    if not any(entry.stands_in(group) for group in groups):
        known = list(dict.fromkeys(key for group in groups for key in numbers_in(group)))
        elements = [key for key in known if key.startswith(f"{name}[")]
        if elements:
            raise TypeError(f"{name} is not one number: schedule {' or '.join(elements)}")
        hint = nearest(name, [*known, "horizon", "last_epoch", "tensors", "counts"])
        raise TypeError(f"{where} a number {name!r}; there are {', '.join(known)}{hint}")
    return entry


def by_selector(name: str, given: Any, groups: Sequence[Group]) -> dict[Selector, Schedule]:
    """The schedules of one hyper-parameter by what selects their groups. Raises where something is none."""
    if not isinstance(given, Mapping):
        return {"*": as_schedule(name, given)}
    if not given:
        raise ValueError(f"{name} has no schedule: give one for each selector, such as {{'*': Cosine(warmup=0.1)}}")
    check_selectors(name, list(given), groups)
    return {selector: as_schedule(name, one) for selector, one in given.items()}


def as_schedule(name: str, given: Any) -> Schedule:
    """The schedule of `name`, also of a Python function of the step. Raises TypeError for anything else."""
    if isinstance(given, Schedule):
        return given
    if callable(given) and not isinstance(given, (type, nn.Module)):
        return Function(function=given)
    raise TypeError(
        f"{name} must be a schedule, such as Cosine(warmup=0.1), got {shown(given)}; its base stands in the optimizer"
    )


def check_selectors(name: str, selectors: Sequence[Any], groups: Sequence[Group]) -> None:
    """Raise where something is no selector, or where one selects nothing: it is most likely misspelled."""
    names = [str(group["name"]) for group in groups if "name" in group]
    for selector in selectors:
        if isinstance(selector, bool) or not (isinstance(selector, (str, int)) or callable(selector)):
            raise TypeError(
                f"a selector of {name} must be a group's name, its index, or a function of the group, "
                f"got {shown(selector)}"
            )
        if not any(selects(selector, group, index) for index, group in enumerate(groups)):
            hint = nearest(selector, names) if isinstance(selector, str) else ""
            there = f"called {', '.join(names)}" if names else "without names"
            raise ValueError(
                f"the selector {label(selector)!r} of {name} matches no group; there are {len(groups)}, {there}{hint}"
            )


def selects(selector: Selector, group: Group, index: int) -> bool:
    """Does the selector choose the group that stands at `index`?"""
    if isinstance(selector, str):
        return selector == "*" or fnmatchcase(str(group.get("name", "")), selector)
    return index == selector if isinstance(selector, int) else bool(selector(group))


def label(selector: Selector) -> str:
    """A selector as text, for messages and for a saved state."""
    if isinstance(selector, int):
        return f"group {selector}"
    return selector if isinstance(selector, str) else function_name(selector)


def labels(selectors: Iterable[Selector]) -> list[str]:
    """A label for each selector, numbered from the second on where several are called alike, as lambdas are."""
    found: list[str] = []
    for selector in selectors:
        name = label(selector)
        numbered = (f"{name} ({number})" for number in count(2))
        found.append(next(one for one in chain([name], numbered) if one not in found))
    return found


def numbers_in(group: Mapping[str, Any]) -> Iterator[str]:
    """What a schedule can scale: the names of numbers, and of those in tuples."""
    for name, value in group.items():
        if name == "params" or name.startswith("initial_"):
            continue
        if is_number(value):
            yield name
        elif isinstance(value, (tuple, list)):
            yield from (f"{name}[{index}]" for index, element in enumerate(value) if is_number(element))


def is_number(value: Any) -> bool:
    """Is it one number, which a schedule can scale?"""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A tensor, or a number of NumPy's, as one of Python's: a base stays what it is while the live value is written."""
    if isinstance(value, Tensor):
        return value.item()
    if is_number(value) and type(value) is not int:
        return float(value)
    return type(value)(map(plain, value)) if isinstance(value, (tuple, list)) else value


def copied(value: Any) -> Any:
    """A tensor as one that nobody else writes; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value
