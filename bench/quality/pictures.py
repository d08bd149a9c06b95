"""The curves of a task: a small picture for each rule, with AdamW's curve behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bench.quality.variations import contestant
from stepwell.compare.fair_contestants import BASELINE
from stepwell.compare.kept import LONGER
from stepwell.compare.standing import Stages, fresh
from stepwell.pictures.charts import Point, path
from stepwell.pictures.markup import Markup, tag
from stepwell.pictures.scales import Scale
from stepwell.text import numbers

_COLUMNS, _WIDTH, _HEIGHT, _GAP, _TEXT = 4, 180.0, 110.0, 26.0, 18.0
_LEFT = 34.0
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #59636e } .name { font-weight: 600; fill: #1f2328 }
.axis { stroke: #d1d9e0 } .rule, .behind { fill: none; stroke-linejoin: round }
.rule { stroke: #0f766e; stroke-width: 1.4 } .behind { stroke: #8b949e; stroke-width: 1 }
.longer { stroke-dasharray: 4 2 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 } .name { fill: #e6edf3 } .axis { stroke: #3d444d }
.rule { stroke: #2dd4bf } .behind { stroke: #6e7681 }
}
"""


def curves(outcomes: Mapping[str, Stages]) -> Markup:
    """Validation loss (logarithmic) by step of every rule, AdamW's in grey behind it: the mean of the fresh seeds, and
    dashed the longer run."""
    lines = {rule: found for rule, stages in outcomes.items() if (found := _lines(stages))}
    points = [point for found in lines.values() for line in found.values() for point in line]
    if not points:
        return tag("svg", xmlns="http://www.w3.org/2000/svg", viewBox="0 0 1 1")
    start = max(line[0][1] for found in lines.values() for line in found.values())
    low, high = min(loss for _, loss in points), min(max(loss for _, loss in points), 1.5 * start)
    most = max(step for step, _ in points)
    rows = -(-len(lines) // _COLUMNS)
    width, height = _LEFT + _COLUMNS * (_WIDTH + _GAP), rows * (_TEXT + _HEIGHT + _GAP)
    panels = []
    for index, (rule, found) in enumerate(lines.items()):
        left = _LEFT + index % _COLUMNS * (_WIDTH + _GAP)
        top = index // _COLUMNS * (_TEXT + _HEIGHT + _GAP) + _TEXT
        x = Scale(0, most, left, left + _WIDTH)
        y = Scale(low / 1.05, high, top + _HEIGHT, top, True)
        behind = {} if rule == BASELINE else lines.get(BASELINE, {})
        panels.append(_panel(contestant(rule).title, found, behind, x, y, high))
    return tag(
        "svg",
        tag("title", "Validation loss by step, each rule beside AdamW"),
        tag("style", Markup(_STYLE)),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
    )


def _panel(
    title: str, lines: Mapping[str, list[Point]], behind: Mapping[str, list[Point]], x: Scale, y: Scale, high: float
) -> Markup:
    def drawn(line: Sequence[Point], kind: str) -> Markup:
        return tag("path", d=path([(x(step), y(min(loss, high))) for step, loss in line]), class_=kind)

    longer = {True: " longer", False: ""}
    parts = [
        tag("text", title, x=x.start, y=y.end - 5, class_="name"),
        tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"),
        tag("line", x1=x.start, x2=x.start, y1=y.start, y2=y.end, class_="axis"),
        *(
            tag("text", numbers.ticks([tick])[0], x=x.start - 4, y=y(tick) + 4, text_anchor="end")
            for tick in y.ticks(3)
        ),
        tag("text", f"{x.high:,.0f}", x=x.end, y=y.start + 13, text_anchor="end"),
        *(drawn(line, f"behind{longer[name == LONGER]}") for name, line in behind.items()),
        *(drawn(line, f"rule{longer[name == LONGER]}") for name, line in lines.items()),
    ]
    return tag("g", *parts)


def _lines(stages: Stages) -> dict[str, list[Point]]:
    """The mean curve of the fresh seeds, and the longer run's."""
    seeds = [run for run in fresh(stages).values() if run.diverged_at is None]
    found = {}
    if seeds:
        found["fresh"] = [
            (float(step), math.exp(sum(math.log(run.losses[index][1]) for run in seeds) / len(seeds)))
            for index, (step, _) in enumerate(seeds[0].losses)
        ]
    if LONGER in stages and len(stages[LONGER].losses) > 1:
        found[LONGER] = [(float(step), loss) for step, loss in stages[LONGER].losses]
    return found
