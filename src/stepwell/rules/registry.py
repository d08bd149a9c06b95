"""Rules by name: a parameter group and a checkpoint keep a rule's name, never the rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.naming import nearest

if TYPE_CHECKING:
    from stepwell.rules.rule import Rule

_RULES: dict[str, type[Rule]] = {}


def enter(rule: type[Rule]) -> None:
    """Make a rule known by its class's name. A later class of the same name replaces the earlier one."""
    _RULES[_folded(rule.__name__)] = rule


def rule_class(name: str) -> type[Rule]:
    """The rule of that name; case, dashes and underscores do not matter. Raises ValueError with the nearest name."""
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
