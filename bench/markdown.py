"""Tables as Markdown has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def header(headings: Sequence[str], *, numbers_from: int | None = None) -> list[str]:
    """The headings and the line below them; columns from `numbers_from` on stand to the right."""
    rules = ["---" if numbers_from is None or at < numbers_from else "---:" for at in range(len(headings))]
    return [line(headings), line(rules)]


def table(headings: Sequence[str], rows: Iterable[Iterable[str]], *, numbers_from: int | None = None) -> str:
    """A whole table, with a line break at its end."""
    return "\n".join([*header(headings, numbers_from=numbers_from), *map(line, rows)]) + "\n"
