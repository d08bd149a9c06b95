"""The hyper-parameters of one rule over the steps, for libraries in which no parameter group holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stepwell.rules.rule import Rule
from stepwell.scheduler.tracks import Entry, as_schedule, find_entry
from stepwell.schedules import Schedule
from stepwell.schedules.fields import check_horizon
from stepwell.text.values import shown


class Course:
    """What each hyper-parameter of a rule is at each step.

    Args:
        rule: the rule, whose values are the bases.
        horizon: total optimizer steps, at least 1, for the schedules that have no horizon of their own.
        schedules: a schedule, or a Python function of the step, by hyper-parameter; an element of a tuple goes by its
            index (`betas[0]`).
        live: names of hyper-parameters whose bases are handed over at each step.

    Raises:
        TypeError: an unknown hyper-parameter, or one that is no number; something that is no schedule.
        ValueError: a horizon that is needed and not known, or too short for a length.
    """

    def __init__(
        self,
        rule: Rule,
        horizon: int | None = None,
        schedules: Mapping[str, Schedule | Callable[[Any], Any]] | None = None,
        live: Iterable[str] = (),
    ) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a stepwell.Rule such as stepwell.rules.AdamW(), got {shown(rule)}")
        if isinstance(live, str):
            raise TypeError(f"live must be names of hyper-parameters, got {shown(live)}; write ({live!r},)")
        self._values = rule.values()
        self._live = {name: self._entry(rule, name) for name in live}
        horizon = check_horizon("horizon", horizon)
        self._schedules = [
            (self._entry(rule, name), as_schedule(name, given).resolve(horizon))
            for name, given in (schedules or {}).items()
        ]

    def _entry(self, rule: Rule, name: str) -> Entry:
        return find_entry(name, [self._values], where=f"{type(rule).__name__} does not have")

    @property
    def live(self) -> dict[str, float]:
        """The rule's values of the live hyper-parameters, by name."""
        return {name: float(entry.read(self._values)) for name, entry in self._live.items()}

    def at(self, step: Any, live: Mapping[str, Any]) -> dict[str, Any]:
        """The values for the update after `step` others, given the live bases."""
        values = dict(self._values)
        for name, base in live.items():
            self._live[name].write(values, base)
        for entry, schedule in self._schedules:
            entry.write(values, entry.read(values) * schedule(step))
        return values
