"""Lines in the terminal, two dots wide and four high to a character."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepwell.pictures.scales import Scale, linear_ticks
from stepwell.text import numbers

Point = tuple[float, float]
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Braille: bit of (row, column) in a character


def sketch(
    lines: Sequence[Sequence[Point]],
    *,
    width: int = 72,
    height: int = 14,
    log: bool = False,
    x_name: str = "",
    y_name: str = "",
    low: float | None = None,
    high: float | None = None,
) -> str:
    """A drawing of lines with numbers beside its axes, ending with a line break.

    Args:
        lines: at least one, of at least one point each; points that are not finite are left out.
        width: columns of the drawing, without the numbers on its left.
        height: its rows.
        log: whether the horizontal axis is logarithmic.
        x_name: what it counts.
        y_name: what the vertical axis counts.
        low: where the vertical axis begins; at the lowest point by default.
        high: where it ends; at the highest point by default. Points above it are drawn there.
    """
    ceiling = math.inf if high is None else high
    points = [[(x, min(y, ceiling)) for x, y in line if math.isfinite(y)] for line in lines]
    heights = [y for line in points for _, y in line]
    places = [x for line in points for x, _ in line]
    bottom, top = (min(heights) if low is None else low), max(heights)
    if not top > bottom:
        bottom, top = bottom - 0.5 * (abs(bottom) or 1.0), top + 0.5 * (abs(top) or 1.0)
    x = Scale(min(places), max(places), 0, 2 * width - 1, log)
    y = Scale(bottom, top, 4 * height - 1, 0)
    cells = [[0] * width for _ in range(height)]
    for line in points:
        for start, end in zip(line, line[1:] or line, strict=False):
            _draw(cells, (x(start[0]), y(start[1])), (x(end[0]), y(end[1])))
    named = [tick for tick in linear_ticks(bottom, top, max(1, min(4, height // 3))) if bottom <= tick <= top]
    ticks = {round(y(tick)) // 4: text for tick, text in zip(named, numbers.rates(named), strict=True)}
    margin = max(map(len, [*ticks.values(), ""]))
    rows = [
        f"{ticks.get(index, ''):>{margin}} │{''.join(chr(0x2800 + cell) for cell in row)}".rstrip("⠀ ")
        for index, row in enumerate(cells)
    ]
    left, right = numbers.rates([x.low, x.high]) if log else (_plain(end) for end in (x.low, x.high))
    name = f" {x_name} " if x_name else " "
    axis = f"{left}{name:─^{max(width - len(left) - len(right), len(name))}}{right}"
    head = [f"{'':>{margin}} {y_name}"] if y_name else []
    return "\n".join([*head, *rows, f"{'':>{margin}} ╰{axis}"]) + "\n"


def _plain(end: float) -> str:
    return numbers.count(end) if float(end).is_integer() and abs(end) < 1e15 else f"{end:,.6g}"


def _draw(cells: list[list[int]], start: Point, end: Point) -> None:
    """Set the dots of a straight line."""
    steps = max(1, math.ceil(max(abs(end[0] - start[0]), abs(end[1] - start[1]))))
    for step in range(steps + 1):
        column = round(start[0] + (end[0] - start[0]) * step / steps)
        row = round(start[1] + (end[1] - start[1]) * step / steps)
        if 0 <= row < 4 * len(cells) and 0 <= column < 2 * len(cells[0]):
            cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
