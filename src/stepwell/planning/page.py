"""A plan as a picture and as an HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.planning.memory import Memory
from stepwell.report import numbers, plots
from stepwell.report.charts import Series
from stepwell.report.markup import Markup, joined, tag
from stepwell.report.sampled import sampled
from stepwell.report.tables import table
from stepwell.schedules import Constant
from stepwell.tabular import some
from stepwell.tracks import entry_called

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan

DEFAULT_STEPS = 1000  # what is drawn of a schedule that needs no horizon, where none is known
EXAMPLES = 3


class Picture(str):
    """An SVG picture that notebooks show."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


def drawing(plan: Plan) -> Picture:
    """The scheduled hyper-parameters over the steps, a line for each that differs: the learning rates in a picture."""
    return Picture(_drawn(plan, "lr"))


def page(plan: Plan) -> str:
    """The plan as one HTML document."""
    return plots.page(_title(plan), *_parts(plan))


def fragment(plan: Plan) -> str:
    """The plan as HTML to be put into another page."""
    return str(tag("div", *_parts(plan), class_="stepwell-plan"))


def _title(plan: Plan) -> str:
    return f"{plan.recipe.name or 'Plan'} for {type(plan.model).__name__}"


def _parts(plan: Plan) -> list[Markup]:
    headings = ("group", "rule", "tensors", "parameters", "lr: start → peak → end", "decay", "why")
    rows = []
    for group in plan.groups:
        way = plan.course(group, "lr")
        rows.append(
            (
                group.name,
                type(group.rule).__name__,
                f"{len(group.members):,}",
                f"{group.parameters:,}",
                f"{group.rule.lr:g}, scheduled" if way is None else str(way),
                f"{group.rule.weight_decay:g}",
                joined(
                    f"{', '.join(group.roles)}: {group.why}",
                    tag("br"),
                    tag("small", some([member.name for member in group.members], EXAMPLES)),
                ),
            )
        )
    names = list(dict.fromkeys(name for group in plan.groups for name in group.schedules)) or ["lr"]
    return [
        tag("p", plan.headline, class_="lead"),
        table(headings, rows, caption="Parameter groups", class_="groups"),
        *(tag("p", f"Warning: {doubt}", class_="note") for doubt in plan.warnings),
        *(_drawn(plan, name) for name in names),
        _memory(plan.memory()),
    ]


def _drawn(plan: Plan, name: str) -> Markup:
    steps = plan.horizon or DEFAULT_STEPS
    lines: dict[tuple[str, float], list[str]] = {}
    series: list[Series] = []
    for group in plan.groups:
        if not entry_called(name).stands_in(group.rule.values()) or plan.course(group, name) is None:
            continue
        schedule = group.schedules.get(name, Constant())
        base = plan.base(group, name)
        if (repr(schedule), base) in lines:
            lines[repr(schedule), base].append(group.name)
            continue
        lines[repr(schedule), base] = [group.name]
        series.append(sampled("", schedule.resolve(steps), steps, colour=len(series), base=base))
    named = [
        Series(name=f"{some(groups, EXAMPLES)}: {schedule}", colour=one.colour, points=one.points)
        for one, ((schedule, _), groups) in zip(series, lines.items(), strict=True)
    ]
    if not named:
        return tag("p", f"The schedule of {name} needs a horizon: give plan(…, horizon=…).")
    return plots.drawing(named, x_name="step", y_name="learning rate" if name == "lr" else name, low=0.0)


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
    return table(headings, rows, caption="Memory of one rank", class_="groups")
