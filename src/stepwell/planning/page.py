"""A plan as a picture and as an HTML page."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from stepwell.pictures import plots
from stepwell.pictures.charts import Series
from stepwell.pictures.markup import Markup, joined, tag
from stepwell.pictures.sampled import sampled
from stepwell.pictures.tables import table
from stepwell.planning.course import reach
from stepwell.planning.laying import PlannedGroup
from stepwell.planning.memory import Memory
from stepwell.scheduler.tracks import entry_called, numbers_in
from stepwell.schedules import Constant
from stepwell.text import numbers
from stepwell.text.naming import nearest
from stepwell.text.tabular import some

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan

DEFAULT_STEPS = 1000  # drawn at least of a schedule that needs no horizon, where none is known
EXAMPLES = 3
HEADINGS = ("group", "rule", "tensors", "parameters", "lr: start → peak → end", "decay", "why")


class Picture(str):
    """An SVG picture that notebooks show."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


def drawing(plan: Plan, name: str) -> Picture:
    """See `Plan.plot`."""
    if not any(_has(group, name) for group in plan.groups):
        known = sorted({each for group in plan.groups for each in numbers_in(group.rule.values())})
        raise ValueError(
            f"no group of the plan has a number {name!r}; there are {', '.join(known)}{nearest(name, known)}"
        )
    drawn = _drawn(plan, name)
    if drawn is None:
        raise ValueError(f"the schedule of {name} needs a horizon: give plan(…, horizon=…)")
    return Picture(drawn)


def page(plan: Plan) -> str:
    """The plan as one HTML document."""
    title = f"{plan.recipe.name or 'Plan'} for {type(plan.model).__name__}"
    pictures = [tag("figure", drawn) for drawn in _pictures(plan)]
    return plots.page(title, *_parts(plan, pictures))


def fragment(plan: Plan) -> str:
    """The plan as HTML to be put into another page, whose style it leaves alone: pictures are images."""
    encoded = [base64.b64encode(drawn.encode()).decode() for drawn in _pictures(plan)]
    pictures = [tag("img", src=f"data:image/svg+xml;base64,{each}", alt="schedules") for each in encoded]
    return str(tag("div", *_parts(plan, pictures), class_="stepwell-plan"))


def _parts(plan: Plan, pictures: list[Markup]) -> list[Markup]:
    rows = [(*cells, joined(why, tag("br") if names else "", tag("span", names))) for cells, why, names in plan.lines()]
    warnings = [tag("p", f"Warning: {doubt}", class_="caution") for doubt in plan.warnings]
    parts = [
        tag("p", plan.headline, class_="lead"),
        *warnings,
        _section("Parameter groups", table(HEADINGS, rows, caption="Parameter groups", class_="plan rules")),
    ]
    if pictures:
        parts.append(_section("Schedules", *pictures))
    return [*parts, _section("Memory", _memory(plan.memory()))]


def _section(title: str, *content: Markup) -> Markup:
    return tag("section", tag("h2", title), *content)


def _pictures(plan: Plan) -> list[Markup]:
    """A picture of each hyper-parameter that is scheduled, of the learning rate where none is."""
    names = list(dict.fromkeys(name for group in plan.groups for name in group.schedules)) or ["lr"]
    return [drawn for name in names if (drawn := _drawn(plan, name)) is not None]


def _has(group: PlannedGroup, name: str) -> bool:
    return entry_called(name).stands_in(group.rule.values())


def _drawn(plan: Plan, name: str) -> Markup | None:
    """A line for each course that the hyper-parameter takes; None where it has none without a horizon."""
    known = [group for group in plan.groups if _has(group, name) and plan.course(group, name) is not None]
    schedules = [group.schedules.get(name, Constant()).resolve(plan.horizon) for group in known]
    steps = plan.horizon or max((reach(one, DEFAULT_STEPS) for one in schedules), default=DEFAULT_STEPS)
    groups: dict[tuple[str, float], list[str]] = {}
    lines: dict[tuple[str, float], Series] = {}
    for group, schedule in zip(known, schedules, strict=True):
        base = plan.base(group, name)
        key = (repr(group.schedules.get(name, Constant())), base)
        if key not in lines:
            lines[key] = sampled("", schedule, steps, colour=len(lines), base=base)
        groups.setdefault(key, []).append(group.name)
    if not lines:
        return None
    series = [
        Series(name=f"{some(groups[key], EXAMPLES)}: {key[0]}", colour=line.colour, points=line.points)
        for key, line in lines.items()
    ]
    return plots.drawing(series, x_name="step", y_name="learning rate" if name == "lr" else name, low=0.0)


def _memory(memory: Memory) -> Markup:
    rows = [
        (
            row.title,
            *(numbers.memory(value) for value in (row.weights, row.gradients, row.state, row.step, row.peak)),
            ", ".join(f"{name} {numbers.memory(value)}" for name, value in row.slots.items()) or "none",
        )
        for row in memory.rows
    ]
    headings = ("recipe", "weights", "gradients", "state", "step", "peak", "state by slot")
    return table(headings, rows, caption="Memory of one rank", class_="plan")
