"""Rules by name: a parameter group and a checkpoint keep a rule's name, never the rule.

A name that is not known here is looked for among the entry points of the group `stepwell.rules`, by which other
packages offer rules. Nothing of theirs is imported before somebody asks for it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from stepwell.importing import one_line
from stepwell.text.naming import nearest

if TYPE_CHECKING:
    from stepwell.rules.rule import Rule

ENTRY_POINTS = "stepwell.rules"

_LOG = logging.getLogger("stepwell")
_RULES: dict[str, type[Rule]] = {}
_WRAPPERS: dict[str, Callable[[type[Rule]], type[Rule]]] = {}


class UnknownRuleError(ValueError):
    """Nobody has a rule or a wrapper of that name."""


def enter(rule: type[Rule]) -> None:
    """Make a rule known by its class's name. A later class of the same name replaces the earlier one."""
    _RULES[_folded(rule.__name__)] = rule


def enter_wrapper(word: str, make: Callable[[type[Rule]], type[Rule]]) -> None:
    """Make a wrapper known: `word(Rule)` is then the name of `make(Rule)`."""
    _WRAPPERS[_folded(word)] = make


def rule_class(name: str) -> type[Rule]:
    """The rule of that name; case, dashes and underscores do not matter, and `cautious(AdamW)` names a wrapped one.

    Raises:
        UnknownRuleError: nobody has such a rule; with the nearest name.
        ValueError: another package offers it, and it cannot be loaded.
    """
    outer, bracket, inner = str(name).partition("(")
    if bracket and inner.endswith(")"):
        if _folded(outer) not in _WRAPPERS:
            known = sorted(_WRAPPERS)
            raise UnknownRuleError(f"unknown wrapper {outer!r}{nearest(outer, known)}; known are {', '.join(known)}")
        return _WRAPPERS[_folded(outer)](rule_class(inner[:-1]))
    folded = _folded(name)
    if folded in _RULES:
        return _RULES[folded]
    if folded in (offered := _offered()):
        return _load(offered[folded])
    raise UnknownRuleError(f"unknown rule {name!r}{nearest(name, rule_names())}; known are {', '.join(rule_names())}")


def rule_names() -> list[str]:
    """The names of all rules, also of those that other packages offer, in alphabetical order."""
    offered = {folded: point.name for folded, point in _offered().items()}
    return sorted((offered | {folded: rule.__name__ for folded, rule in _RULES.items()}).values(), key=str.casefold)


def rule_classes() -> Iterator[type[Rule]]:
    """All rules, in the order of their names. What cannot be loaded is left out, and that is said once."""
    for name in rule_names():
        try:
            yield rule_class(name)
        except ValueError as error:
            _say_once(str(error))


# What other packages offer.


def _offered() -> dict[str, EntryPoint]:
    """The entry points by folded name. One that takes a name of ours, or of another package, is refused, said once."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=_package):
        folded = _folded(point.name)
        if folded in _RULES and _is_ours(_RULES[folded]):
            _refuse(point, f"stepwell has a rule {_RULES[folded].__name__}")
        elif folded in found:
            _refuse(point, f"{_package(found[folded])} has a rule {found[folded].name}")
        else:
            found[folded] = point
    return found


def _load(point: EntryPoint) -> type[Rule]:
    """The rule behind an entry point. Raises ValueError, in one line, where there is none; nothing has changed then."""
    before = dict(_RULES)
    cause: Exception | None = None
    try:
        rule = point.load()
        problem = _misfit(point, rule)
    except Exception as error:
        cause, problem = error, one_line(error)
    if problem:
        _RULES.clear()
    _RULES.update(before)  # whatever else its module defines takes nobody's name
    if problem:
        raise ValueError(f"{_title(point)} cannot be loaded: {problem}") from cause
    enter(rule)
    return rule  # type: ignore[no-any-return]


def _misfit(point: EntryPoint, found: object) -> str:
    """Why what an entry point names is not the rule that it offers; "" where it is."""
    from stepwell.rules.rule import Rule

    if not isinstance(found, type) or not issubclass(found, Rule):
        return f"{point.value} is no subclass of stepwell.Rule"
    if _folded(found.__name__) != _folded(point.name):
        return f"{point.value} is called {found.__name__}, and so must be its entry point"
    return ""


def _is_ours(rule: type[Rule]) -> bool:
    return rule.__module__.partition(".")[0] == "stepwell"


def _package(point: EntryPoint) -> str:
    return "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _title(point: EntryPoint) -> str:
    return f"the rule {point.name!r} of the package {_package(point)}"


def _refuse(point: EntryPoint, reason: str) -> None:
    _say_once(f"{_title(point)} is refused: {reason}; give it another name")


@functools.cache
def _say_once(line: str) -> None:
    _LOG.warning("%s", line)


def _folded(name: str) -> str:
    return str(name).casefold().replace("-", "").replace("_", "").replace(" ", "")
