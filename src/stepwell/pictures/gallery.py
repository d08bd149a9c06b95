"""All shapes in one picture, for the docs: `python -m stepwell.pictures.gallery docs/schedules.svg`."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

from stepwell.pictures.charts import Point, path
from stepwell.pictures.markup import Markup, tag
from stepwell.pictures.sampled import sampled
from stepwell.pictures.scales import Scale
from stepwell.schedules import parse

EXAMPLES = (
    "Constant(warmup=0.1)",
    "Linear(warmup=0.1)",
    "Cosine(warmup=0.1, end=0.1)",
    "Polynomial(warmup=0.1, power=2)",
    "REX(warmup=0.1)",
    "InverseSqrt(warmup=0.1)",
    "Power(warmup=0.05, flat=0.2)",
    "Noam(warmup=0.1)",
    "Exponential(warmup=0.1, end=0.01)",
    "Step(every=0.25, gamma=0.5)",
    "MultiStep(at=[0.5, 0.75], gamma=0.3)",
    "CosineRestarts(cycles=3, growth=2, peak_decay=0.8)",
    "OneCycle()",
    "OneCycle(three_phase=True, shape='linear')",
    "Cyclic(up=0.1, mode='triangular2')",
    "WSD(warmup=0.1, decay=0.2)",
    "Trapezoid(decay=0.3)",
    "Knee(warmup=0.1, explore=0.5)",
    "warmup(Cosine(), 0.3, shape='cosine')",
    "sequence(Constant(warmup=0.1), Linear(), at=[0.6])",
    "product(WSD(decay=0.2), Linear(end=0.5))",
    "clamp(Cosine(), low=0.2, high=0.8)",
    "repeat(Linear(end=0.2), 0.2)",
    "shift(REX(), 0.3)",
)

_COLUMNS, _WIDTH, _HEIGHT, _GAP, _TEXT = 4, 210, 84, 24, 34
_STYLE = """
text { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #6b6459; }
.line { fill: none; stroke: #a4582a; stroke-width: 2; stroke-linejoin: round; }
.area { fill: #a4582a; opacity: .1; }
.axis { stroke: #8d857a; opacity: .6; }
@media (prefers-color-scheme: dark) {
  text { fill: #a8a196; } .line { stroke: #e09a63; } .area { fill: #e09a63; }
}
"""


def gallery(examples: tuple[str, ...] = EXAMPLES, steps: int = 1000) -> Markup:
    """Small pictures of schedules, each over the code that makes it, as an SVG that stands alone."""
    rows = -(-len(examples) // _COLUMNS)
    width, height = _COLUMNS * (_WIDTH + _GAP) + _GAP, rows * (_HEIGHT + _TEXT + _GAP) + _GAP
    panels = [
        _panel(
            text,
            steps,
            left=_GAP + index % _COLUMNS * (_WIDTH + _GAP),
            top=_GAP + index // _COLUMNS * (_HEIGHT + _TEXT + _GAP),
        )
        for index, text in enumerate(examples)
    ]
    return tag(
        "svg",
        tag("style", Markup(_STYLE)),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{len(examples)} schedules: the factor against the step.",
    )


def _panel(text: str, steps: int, left: int, top: int) -> Markup:
    points = sampled(text, parse(text).resolve(steps), steps, points=500).points
    x, y = Scale(0, steps, left, left + _WIDTH), Scale(0, 1, top + _HEIGHT, top)
    line = _thinned([(x(step), y(factor)) for step, factor in points])
    parts = [
        tag("path", d=path([(left, y.start), *line, (x.end, y.start)]), class_="area"),
        tag("path", d=path(line), class_="line"),
        tag("line", x1=left, x2=left + _WIDTH, y1=y.start, y2=y.start, class_="axis"),
    ]
    for number, words in enumerate(_lines(text)):
        parts.append(tag("text", words, x=left, y=top + _HEIGHT + 14 + 13 * number))
    return tag("g", *parts)


def _thinned(line: list[Point], tolerance: float = 0.1) -> list[Point]:
    """The line without the points that lie on the way between those that are kept, to a tenth of a pixel."""
    kept = [line[0]]
    passed: list[Point] = []
    for point, after in itertools.pairwise(line):
        passed.append(point)
        if any(_distance(one, kept[-1], after) > tolerance for one in passed):
            kept.append(point)
            passed.clear()
    return [*kept, line[-1]]


def _distance(point: Point, start: Point, end: Point) -> float:
    """How far the point lies from the line through the others."""
    (x, y), (x0, y0), (x1, y1) = point, start, end
    return abs((x1 - x0) * (y0 - y) - (x0 - x) * (y1 - y0)) / math.hypot(x1 - x0, y1 - y0)


def _lines(text: str, room: int = 31) -> list[str]:
    """The code on as many lines as it needs."""
    found = [""]
    for word in text.replace(", ", ",\n").split("\n"):
        if found[-1] and len(found[-1]) + 1 + len(word) > room:
            found.append(word)
        else:
            found[-1] = f"{found[-1]} {word}".strip()
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(f"{gallery()}\n", encoding="utf-8")
