"""Every mistake of a recipe at once, each in one line that says where it stands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
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

    @contextlib.contextmanager
    def at(self, place: str = "") -> Iterator[None]:
        """Keeps what is wrong inside this context and goes on after it."""
        prefix = f"{place}: " if place else ""
        try:
            yield
        except RecipeError as error:
            self.found += [f"{prefix}{mistake}" for mistake in error.mistakes]
        except (TypeError, ValueError) as error:
            self.found.append(f"{prefix}{error}")

    def raise_if_any(self, subject: str) -> None:
        """Raises RecipeError if there was any mistake."""
        if self.found:
            raise RecipeError(self.found, subject)


def check_values(rule: type[Rule], values: Mapping[str, Any], found: Mistakes, place: str = "") -> dict[str, Any]:
    """The values as the rule sees them; those that it does not take are put among the mistakes."""
    known = hyper_parameters(rule)
    right: dict[str, Any] = {}
    for name, value in values.items():
        with found.at(place):
            rule.check_names((name,))
            right[name] = validated(name, value, known[name])
    return right
