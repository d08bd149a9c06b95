"""The pictures, drawn as SVG by hand: no library travels with the report, and they are seen without any script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from stepwell.pictures.markup import Markup, joined, tag
from stepwell.pictures.scales import Scale
from stepwell.text import numbers
from stepwell.text.tabular import elided

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name, its place in the palette (0 is the baseline), its points, and the point to mark on it."""

    name: str
    colour: int
    points: Sequence[Point]
    reach: Point | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A drawing of width × height pixels and the margins around its axes."""

    width: float
    height: float
    left: float = 44
    right: float = 14
    top: float = 12
    bottom: float = 42

    def x(self, low: float, high: float, *, log: bool = False) -> Scale:
        return Scale(low, high, self.left, self.width - self.right, log)

    def y(self, low: float, high: float, *, log: bool = False) -> Scale:
        return Scale(low, high, self.height - self.bottom, self.top, log)

    def beside(self, texts: Sequence[str]) -> Frame:
        """The frame with room for these numbers on the left of the vertical axis."""
        return replace(self, left=max(self.left, 10 + LETTER * max(map(len, texts), default=0)))


# Drawn twice, and the style sheet shows the one that fits, so that text keeps its size on a telephone.
WIDE = Frame(width=580, height=380, right=160)
NARROW = Frame(width=340, height=300)
SMALL = Frame(width=260, height=170, bottom=36)

Y_COUNT = 6  # about so many numbers stand beside a chart
LETTER = 6.8  # pixels, on average
LABEL = 19  # letters that have room beside a wide chart
LINE = 16.0  # from one text to the next below it

COLOURS = 8
DASHES = ("", "9 4", "2 4", "9 4 2 4")


def curves(
    series: Sequence[Series],
    *,
    unit: str,
    losses: Point,
    target: float | None,
    write: Callable[[float], str],
) -> Markup:
    """Validation loss against steps or seconds.

    Args:
        series: the runs; `reach` is where a run first is at the baseline's final loss.
        unit: what the horizontal axis counts.
        losses: the least and the greatest loss on the vertical axis.
        target: the baseline's final loss, drawn as a line.
        write: how a horizontal position is written.
    """
    series = [one for one in series if one.points]
    if not series:
        return tag("p", "Nothing was measured.", class_="empty")
    ends = "; ".join(f"{one.name} ends at {numbers.loss(one.points[-1][1])}" for one in series)
    title = f"Validation loss against {unit}: {ends}."
    wide, narrow = (_curves(frame, series, unit, losses, target, write, title) for frame in (WIDE, NARROW))
    return joined(tag("div", wide, class_="wide"), tag("div", narrow, class_="narrow"))


def _curves(
    frame: Frame,
    series: Sequence[Series],
    unit: str,
    losses: Point,
    target: float | None,
    write: Callable[[float], str],
    title: str,
) -> Markup:
    labelled = frame is WIDE
    if labelled:  # as high as the names beside it
        frame = replace(frame, height=max(frame.height, frame.top + frame.bottom + LINE * (len(series) + 1)))
    y = frame.y(*losses)
    frame = frame.beside(numbers.ticks(y.ticks(Y_COUNT)))
    x = frame.x(0, max(at for one in series for at, _ in one.points))
    clip = f"clip-{unit}-{frame.width:.0f}"
    box = tag("rect", x=x.start, y=y.end - 6, width=x.end - x.start + 6, height=y.start - y.end + 6)
    parts = [tag("defs", tag("clipPath", box, id=clip)), axes(frame, x, y, unit, whole=unit == "steps")]
    if target is not None:
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(target), y2=y(target), class_="target"))
    drops = {one.colour: x(one.reach[0]) for one in series if one.reach is not None}
    widest = max((len(write(one.reach[0])) for one in series if one.reach is not None), default=0)
    texts = _in_rows(drops, gap=max(44, 9 * widest), low=x.start, high=x.end + 12)
    places = spread([y(one.points[-1][1]) for one in series], gap=LINE, low=y.end + 6, high=y.start - 4)
    for one, place in zip(series, places, strict=True):
        at, loss = one.points[-1]
        drawn = [
            tag("path", **line(one.colour), d=path([(x(a), y(b)) for a, b in one.points]), clip_path=f"url(#{clip})"),
            tag("g", mark(one.colour, x(at), y(loss)), clip_path=f"url(#{clip})"),
        ]
        if labelled:
            height = min(max(y(loss), y.end), y.start)  # of a run that leaves the chart, from where it does
            drawn.append(tag("path", d=path([(x(at) + 7, height), (x.end + 13, place)]), class_="leader"))
            short = elided(one.name, LABEL)
            whole = tag("title", one.name) if short != one.name else ""
            drawn.append(tag("text", whole, short, x=x.end + 16, y=place + 4, class_="label"))
        if one.reach is not None:
            text_x, row = texts[one.colour]
            drawn += _reach(drops[one.colour], y(one.reach[1]), y.start - LINE * row, write(one.reach[0]), text_x)
        parts.append(tag("g", *drawn, class_=shade(one.colour), data_series=one.colour))
    cursor = tag("line", class_="cursor", y1=y.end, y2=y.start, x1=-9, x2=-9)
    return svg(frame, *parts, cursor, title=title, data_unit=unit, data_start=x.start, data_end=x.end, data_high=x.high)


def _in_rows(drops: Mapping[int, float], *, gap: float, low: float, high: float) -> dict[int, tuple[float, int]]:
    """Where the texts stand along the axis, `gap` apart, and in which row: in one, or in as many as have room."""
    order = sorted(drops, key=drops.__getitem__)
    rows = max(1, math.ceil(gap * len(order) / (high - low)))
    found: dict[int, tuple[float, int]] = {}
    for row in range(rows):
        colours = order[row::rows]
        middles = spread([drops[one] for one in colours], gap=gap, low=low + gap / 2, high=high - gap / 2)
        found |= {one: (middle, row) for one, middle in zip(colours, middles, strict=True)}
    return found


def _reach(x: float, y: float, bottom: float, text: str, text_x: float) -> list[Markup]:
    """A run's first point at the baseline's final loss, dropped onto the horizontal axis, or near it."""
    return [
        tag("line", x1=x, x2=x, y1=y, y2=max(bottom - 18, y), class_="reach"),
        tag("circle", cx=x, cy=y, r=3.5, class_="reach-dot"),
        tag("text", text, x=text_x, y=bottom - 6, class_="reach-text"),
    ]


def loss_range(series: Sequence[Series], past: float) -> Point:
    """From just below the lowest loss to just above the highest after the first, steep fall."""
    losses = [loss for one in series for _, loss in one.points]
    later = [loss for one in series for at, loss in one.points if at >= past] or losses
    low, high = min(losses, default=0.0), max(later, default=1.0)
    pad = 0.07 * (high - low) or 0.1
    return low - pad, high + pad


def schedule(series: Sequence[Series], *, steps: int) -> Markup:
    """Learning rate against steps, each parameter group's own curve once."""
    peak = max((rate for one in series for _, rate in one.points), default=0.0) or 1.0
    y = SMALL.y(0, 1.08 * peak)
    frame = SMALL.beside(numbers.rates(y.ticks(3)))
    x = frame.x(0, steps)
    parts = [axes(frame, x, y, "steps", x_count=3, y_count=3, y_write=numbers.rates, whole=True)]
    for one in series:
        points = [(x(at), y(rate)) for at, rate in one.points]
        if not points:
            continue
        area = [(points[0][0], y.start), *points, (points[-1][0], y.start)]
        drawn = [tag("path", d=path(area), class_="area"), tag("path", **line(one.colour), d=path(points))]
        parts.append(tag("g", *drawn, class_=shade(one.colour)))
    return svg(frame, *parts, title=f"Learning rate against steps, at most {numbers.rate(peak)}.")


def tries(points: Sequence[Point], best: Point, colour: int, *, low: float, high: float) -> Markup:
    """Final validation loss against the learning rate of every try that a sweep made; the best is filled."""
    rates = [rate for rate, _ in points]
    y = SMALL.y(low, high)
    frame = SMALL.beside(numbers.ticks(y.ticks(3)))
    x = frame.x(min(rates) / 1.2, max(rates) * 1.2, log=True)
    parts = [axes(frame, x, y, "learning rate", y_count=3, x_write=numbers.rates)]
    dots = [
        tag("circle", cx=x(rate), cy=y(min(loss, high)), r=5.5 if (rate, loss) == best else 3.5, class_=kind)
        for rate, loss in points
        for kind in ["best" if (rate, loss) == best else "try"]
    ]
    parts.append(tag("g", *dots, class_=shade(colour)))
    title = f"{len(points)} tries; the best at learning rate {numbers.rate(best[0])} ended at {numbers.loss(best[1])}."
    return svg(frame, *parts, title=title)


def axes(
    frame: Frame,
    x: Scale,
    y: Scale,
    name: str,
    *,
    x_count: int = 5,
    y_count: int = Y_COUNT,
    x_write: Callable[[Sequence[float]], list[str]] = numbers.ticks,
    y_write: Callable[[Sequence[float]], list[str]] = numbers.ticks,
    whole: bool = False,
) -> Markup:
    """The grid, the numbers beside it and the name of the horizontal axis, on which only `whole` numbers may stand."""
    parts = []
    x_ticks = [tick for tick in x.ticks(x_count) if not whole or float(tick).is_integer()]
    for tick, text in zip(y.ticks(y_count), y_write(y.ticks(y_count)), strict=True):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(tag("text", text, x=x.start - 7, y=y(tick) + 4, class_="tick end"))
    for tick, text in zip(x_ticks, x_write(x_ticks), strict=True):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(tag("text", text, x=x(tick), y=y.start + 17, class_="tick middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(tag("text", name, x=x.end, y=frame.height - 6, class_="tick end name"))
    return tag("g", *parts, class_="axes", aria_hidden="true")


def shade(colour: int) -> str:
    """The class that gives a series its colour: there are 8 in the style sheet, and they come round."""
    return f"s{colour % COLOURS}"


def line(colour: int) -> dict[str, str]:
    """What a series' line looks like: each time that the colours come round, it is dashed otherwise."""
    return {"class_": "line"} | ({"stroke_dasharray": dashes} if (dashes := DASHES[colour // COLOURS % 4]) else {})


def mark(colour: int, x: float, y: float, size: float = 4.5) -> Markup:
    """A mark of its own shape for every colour, so that no line is known by its colour alone."""
    shape = (colour + colour // COLOURS) % 4
    if shape == 0:
        return tag("circle", cx=x, cy=y, r=size, class_="mark")
    if shape == 1:
        return tag("rect", x=x - size + 0.5, y=y - size + 0.5, width=2 * size - 1, height=2 * size - 1, class_="mark")
    corners = 4 if shape == 2 else 3
    turn = [math.tau * corner / corners - math.pi / 2 for corner in range(corners)]
    points = [(x + 1.2 * size * math.cos(angle), y + 1.2 * size * math.sin(angle)) for angle in turn]
    return tag("path", d=f"{path(points)}Z", class_="mark")


def path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """The places, in their order, moved apart to stand `gap` from each other between low and high, or as far as they
    can where there are too many."""
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    found = list(places)
    floor = low
    for index in order:
        found[index] = floor = max(places[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        found[index] = ceiling = min(found[index], ceiling)
        ceiling -= gap
    return found


def svg(frame: Frame, *parts: Markup, title: str, **data: object) -> Markup:
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=title, **data)
