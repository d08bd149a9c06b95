"""Every mistake of a recipe at once, each in one line that says where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from stepwell.rules.hyper import validated
from stepwell.rules.rule import Rule, hyper_parameters


class RecipeError(ValueError):
    """A recipe that cannot be. The message names every mistake in it, one a line.

    Attributes:
        mistakes: the mistakes, each in one line.
    """

    def __init__(self, mistakes: list[str], subject: str) -> None:
        self.mistakes = tuple(mistakes)
        self.subject = subject
        if len(mistakes) == 1:
            super().__init__(f"{subject}: {mistakes[0]}")
        else:
            super().__init__("\n".join((f"{subject} has {len(mistakes)} mistakes:", *(f"- {one}" for one in mistakes))))

    def __reduce__(self) -> Any:
        return RecipeError, (list(self.mistakes), self.subject)


class Mistakes:
    """Mistakes found so far.

    >>> found = Mistakes()
    >>> with found.at("clip_norm"):
    ...     raise ValueError("clip_norm must be above 0, got -1")
    >>> found.raise_if_any("this recipe")
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def at(self, place: str = "") -> Keeping:
        """A context that keeps what is wrong inside it, and goes on after it."""
        return Keeping(self.found, place)

    def raise_if_any(self, subject: str) -> None:
        """Raises RecipeError if there was any mistake."""
        if self.found:
            raise RecipeError(self.found, subject)


class Keeping:
    """Within this context a TypeError or ValueError ends the context alone, and is put among the mistakes."""

    def __init__(self, found: list[str], place: str) -> None:
        self._found = found
        self._prefix = f"{place}: " if place else ""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, (TypeError, ValueError)):
            return False
        mistakes = error.mistakes if isinstance(error, RecipeError) else (str(error),)
        self._found += [f"{self._prefix}{mistake}" for mistake in mistakes]
        return True


def check_values(rule: type[Rule], values: Mapping[str, Any], found: Mistakes, place: str = "") -> dict[str, Any]:
    """The values as the rule sees them; those that it does not take are put among the mistakes."""
    known = hyper_parameters(rule)
    right: dict[str, Any] = {}
    for name, value in values.items():
        with found.at(place):
            rule.check_names((name,))
            settled_by_the_rule = value is None and name in rule.may_be_none
            right[name] = None if settled_by_the_rule else validated(name, value, known[name])
    return right
