"""A route: which rule, at which values, for which parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepwell.codecs import CHOICES, MasterKind, StateDtype
from stepwell.recipes.fields import as_schedules, as_selector, as_table, as_text
from stepwell.recipes.frozen import Frozen
from stepwell.recipes.mistakes import Mistakes, check_values
from stepwell.rules.hyper import validated
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule
from stepwell.scheduler.tracks import entry_called
from stepwell.schedules import Schedule
from stepwell.select import Selector, everything


@dataclass(frozen=True, kw_only=True, repr=False)
class Route(Frozen):
    """Where the parameters that a selector takes go.

    Args:
        rule: the rule that updates them: its name (`"AdamW"`, `"cautious(Lion)"`), its class, or a `Rule`, whose
            hyper-parameters that are not the defaults are then this route's.
        select: which parameters: a `Selector`, or the text that one prints as. By default all that no earlier route
            takes.
        name: of its parameter groups; by default the rule's name in small letters.
        hyper_parameters: values for this route alone; they win over the recipe's.
        schedules: schedule by hyper-parameter, as the text that it prints as or as a schedule, for this route alone;
            they win over the recipe's.
        state_dtype, master: how state and weights are stored, for this route alone; None: as the recipe says.
        why: the reason, in a few words.

    Raises:
        RecipeError: naming every mistake.
    """

    rule: str
    select: Selector = field(default_factory=everything)
    name: str = ""
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    state_dtype: StateDtype | None = None
    master: MasterKind | None = None
    why: str = ""

    if TYPE_CHECKING:  # what is taken, beside what is kept

        def __init__(
            self,
            *,
            rule: Rule | type[Rule] | str,
            select: Selector | str = ...,
            name: str = "",
            hyper_parameters: Mapping[str, Any] = ...,
            schedules: Mapping[str, Schedule | str] = ...,
            state_dtype: StateDtype | None = None,
            master: MasterKind | None = None,
            why: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        found = Mistakes()
        given: Any = self.rule
        own: dict[str, Any] = {}
        if isinstance(given, Rule):
            own = changed_values(given)
            given = type(given).__name__
        elif isinstance(given, type) and issubclass(given, Rule):
            given = given.__name__
        with found.at("select"):
            self._settle(select=as_selector(self.select))
        values = own | as_table("hyper_parameters", self.hyper_parameters, found)
        schedules = as_schedules(self.schedules, found)
        with found.at("rule"):
            kind = rule_class(given)
            self._settle(rule=kind.__name__)
            values = check_values(kind, values, found)
            with found.at("schedules"):
                kind.check_names(entry_called(name).name for name in schedules)
        for keyword, annotation in CHOICES.items():
            with found.at():
                self._settle(**{keyword: validated(keyword, getattr(self, keyword), annotation)})
        name = as_text("name", self.name, found) or str(given).lower()
        why = as_text("why", self.why, found)
        self._settle(hyper_parameters=values, schedules=schedules, name=name, why=why)
        found.raise_if_any(f"route {name!r}")

    def plain(self) -> Route:
        return Route(rule=self.rule)

    def __hash__(self) -> int:
        return hash((self.name, self.rule, self.select))


def changed_values(rule: Rule) -> dict[str, Any]:
    """The hyper-parameters of a rule that do not stand at their defaults."""
    defaults = {each.name: each.default for each in dataclasses.fields(rule)}
    return {name: value for name, value in rule.values().items() if value != defaults[name]}
