"""Live progress: one line for each recipe, drawn again as it trains; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REDRAWN_EVERY = 0.15  # seconds
PLAIN_LINES = 5  # for each recipe, where there is no terminal


@dataclass
class Line:
    """One recipe: how far it is, and what is known of it, a text for each column."""

    title: str
    total: int
    done: int = 0
    cells: Sequence[str] = ()
    failed: bool = False
    said: int = 0


@dataclass
class Board:
    """The lines of all recipes.

    Nothing is drawn by a thread: drawing happens inside `update`, between two steps, so it is never in a measured time.

    Args:
        console: where to draw.
        columns: the headings of the cells.
        titles: the recipes' titles by name.
        total: what `done` reaches at the end of each.
    """

    console: Console
    columns: Sequence[str]
    titles: Mapping[str, str]
    total: int
    lines: dict[str, Line] = field(init=False)
    _live: Live = field(init=False)
    _drawn: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.lines = {name: Line(title=title, total=self.total) for name, title in self.titles.items()}
        self._live = Live(console=self.console, auto_refresh=False, get_renderable=self._table)

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.refresh()
            self._live.stop()

    def update(self, name: str, done: int, cells: Sequence[str], *, failed: bool = False) -> None:
        """Notes how far a recipe is, and draws if the last drawing is old enough."""
        line = self.lines[name]
        line.done, line.cells, line.failed = done, cells, failed
        now = time.monotonic()
        if self._live.is_started and now - self._drawn > REDRAWN_EVERY:
            self._drawn = now
            self._live.refresh()
        elif not self._live.is_started:
            self._say(line)

    def _say(self, line: Line) -> None:
        reached = line.done * PLAIN_LINES // line.total
        if reached > line.said:
            line.said = reached
            cells = "  ".join(f"{name} {cell}" for name, cell in zip(self.columns, line.cells, strict=True) if cell)
            self.console.print(f"{line.title:<20}  {cells}", highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("")  # the first to be narrowed
        table.add_column("", min_width=12, max_width=34, ratio=1)
        for column in self.columns:
            table.add_column(column, justify="right", no_wrap=True)
        for index, line in enumerate(self.lines.values()):
            style = "red" if line.failed else "green" if line.done >= line.total else "cyan"
            bar = ProgressBar(total=line.total, completed=line.done, complete_style=style, finished_style=style)
            cells = line.cells or [""] * len(self.columns)
            title = Text(line.title, style="bold" if index == 0 else "", no_wrap=True, overflow="ellipsis")
            table.add_row(title, bar, *cells)
        return table
