"""Tables in plain text: columns of short cells, and a last one that is wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 110
WIDEST_CELL = 32
NARROWEST_LAST = 24

Line = tuple[Sequence[str], str]
"""The cells of a line, and the text of its last column."""


def text_table(
    headings: Line, lines: Iterable[Line], width: int = WIDTH, *, left_aligned: int = 1, widest: int = WIDEST_CELL
) -> str:
    """A table whose last column is wrapped to keep the lines within `width` (down to a column of 24 characters).

    The first `left_aligned` columns are names, which start at the left and are cut where they are wider than `widest`
    characters; the others are numbers, which end at the right and are never cut.
    """
    rows = [(_shortened(cells, left_aligned, widest), last) for cells, last in (headings, *lines)]
    widths = _widths(cells for cells, _ in rows)
    margin = sum(widths) + 2 * len(widths)
    text = []
    for cells, last in rows:
        wrapped = _wrap(last, max(NARROWEST_LAST, width - margin)) or [""]
        aligned = [
            cell.ljust(size) if column < left_aligned else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        text.append("  ".join([*aligned, wrapped[0]]).rstrip())
        text += [" " * margin + line for line in wrapped[1:]]
    return "\n".join(text)


def room_beside(rows: Iterable[Sequence[str]], width: int, *, left_aligned: int = 1) -> int:
    """The characters that columns of such cells leave to a last one, in lines of this width."""
    widths = _widths(_shortened(cells, left_aligned) for cells in rows)
    return width - sum(widths) - 2 * len(widths)


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """A text in lines of at most `width` characters, all but the first indented."""
    return [f"{indent if index else ''}{line}" for index, line in enumerate(_wrap(text, width - len(indent)))]


def _widths(rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def some(names: Sequence[str], most: int) -> str:
    """The first names, and how many there are beside them."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def _shortened(cells: Sequence[str], left_aligned: int, widest: int = WIDEST_CELL) -> list[str]:
    return [*(_short(cell, widest) for cell in cells[:left_aligned]), *cells[left_aligned:]]


def _short(cell: str, widest: int) -> str:
    return cell if len(cell) <= widest else cell[: widest - 1] + "…"


def _wrap(text: str, width: int) -> list[str]:
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(
            " ".join(elided(word, width) for word in paragraph.split()), width, break_on_hyphens=False
        )
    ]


def elided(word: str, width: int) -> str:
    """A word without its middle, where it is wider than that."""
    return word if len(word) <= width else f"{word[: width // 2]}…{word[-(width - width // 2 - 1) :]}"
