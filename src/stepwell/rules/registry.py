"""Rules by name: a parameter group and a checkpoint keep a rule's name, never the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stepwell.naming import nearest

if TYPE_CHECKING:
    from stepwell.rules.rule import Rule

_RULES: dict[str, type[Rule]] = {}
_WRAPPERS: dict[str, Callable[[type[Rule]], type[Rule]]] = {}


def enter(rule: type[Rule]) -> None:
    """Make a rule known by its class's name. A later class of the same name replaces the earlier one."""
    _RULES[_folded(rule.__name__)] = rule


def enter_wrapper(word: str, make: Callable[[type[Rule]], type[Rule]]) -> None:
    """Make a wrapper known: `word(Rule)` is then the name of `make(Rule)`."""
    _WRAPPERS[_folded(word)] = make


def rule_class(name: str) -> type[Rule]:
    """The rule of that name; case, dashes and underscores do not matter, and `cautious(AdamW)` names a wrapped one.

    Raises ValueError with the nearest name.
    """
    outer, bracket, inner = str(name).partition("(")
    if bracket and inner.endswith(")"):
        if _folded(outer) not in _WRAPPERS:
            known = sorted(_WRAPPERS)
            raise ValueError(f"unknown wrapper {outer!r}{nearest(outer, known)}; known are {', '.join(known)}")
        return _WRAPPERS[_folded(outer)](rule_class(inner[:-1]))
    try:
        return _RULES[_folded(name)]
    except KeyError:
        raise ValueError(
            f"unknown rule {name!r}{nearest(name, rule_names())}; known are {', '.join(rule_names())}"
        ) from None


def rule_names() -> list[str]:
    """The names of all rules, in alphabetical order."""
    return sorted((rule.__name__ for rule in _RULES.values()), key=str.casefold)


def _folded(name: str) -> str:
    return str(name).casefold().replace("-", "").replace("_", "").replace(" ", "")
