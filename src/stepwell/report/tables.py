"""The tables of the report."""

from __future__ import annotations

from typing import Any

from stepwell.compare.results import Comparison, Row
from stepwell.pictures.charts import mark, shade
from stepwell.pictures.markup import Markup, joined, tag
from stepwell.pictures.tables import table
from stepwell.report.finding import part
from stepwell.text import numbers


def name_of(title: str, colour: int) -> Markup:
    """A recipe's name with the mark that it has in the charts."""
    icon = tag("svg", mark(colour, 7, 7, 5), viewBox="0 0 14 14", class_=f"icon {shade(colour)}", aria_hidden="true")
    return joined(icon, title)


def results(comparison: Comparison) -> Markup:
    rows = comparison.rows
    finals = [row.final_loss for row in rows if row.final_loss is not None]
    best = min(finals, default=None)
    headings = (
        "recipe",
        "final validation loss",
        "steps to the baseline’s final loss",
        "seconds to it",
        "time a step",
        "optimizer’s share",
        "optimizer state",
    )
    body = []
    for colour, row in enumerate(rows):
        baseline = rows[0]
        title = joined(name_of(row.title, colour), tag("span", "baseline", class_="badge") if colour == 0 else "")
        steps = _with_share(numbers.count(row.steps_to_baseline), row.steps_to_baseline, baseline.steps_to_baseline)
        seconds = _with_share(
            numbers.seconds(row.seconds_to_baseline), row.seconds_to_baseline, baseline.seconds_to_baseline
        )
        body.append(
            (
                title,
                _final(row, rows[0], best),
                steps if colour else numbers.count(row.steps_to_baseline),
                seconds if colour else numbers.seconds(row.seconds_to_baseline),
                numbers.milliseconds(row.step_milliseconds),
                _bar(row.optimizer_share, colour),
                numbers.data(row.state_bytes),
            )
        )
    return table(headings, body, caption="Results of each recipe", class_="results")


def _final(row: Row, baseline: Row, best: float | None) -> object:
    if row.final_loss is None:
        return tag("span", row.status if row.status == "diverged" else numbers.MISSING, class_="bad")
    value = tag("strong" if row.final_loss == best else "span", numbers.loss(row.final_loss))
    if row is baseline or baseline.final_loss is None:
        return value
    larger = max(row.final_loss, baseline.final_loss, key=abs)
    difference = numbers.loss(row.final_loss - baseline.final_loss, like=larger)
    return joined(value, tag("small", difference.replace("-", "−", 1) if difference[0] == "-" else f"+{difference}"))


def _with_share(text: str, value: float | None, whole: float | None) -> object:
    if value is None:
        return tag("span", "not reached", class_="muted")
    return joined(text, tag("small", numbers.share(part(value, whole))))


def _bar(share: float | None, colour: int) -> object:
    if share is None:
        return numbers.MISSING
    fill = tag("span", class_="fill", style=f"width:{100 * share:.1f}%")
    return joined(tag("span", fill, class_=f"bar {shade(colour)}", aria_hidden="true"), numbers.share(share))


def groups(comparison: Comparison) -> Markup:
    body = []
    for colour, run in enumerate(comparison.runs):
        for index, group in enumerate(run.groups):
            lead = name_of(run.title, colour) if index == 0 else tag("span", run.title, class_="again")
            body.append(
                (
                    lead,
                    group.name,
                    group.rule,
                    numbers.count(group.tensors),
                    numbers.count(group.weights),
                    numbers.rate(group.lr),
                    numbers.rate(group.weight_decay),
                    ": ".join(text for text in (group.role, group.why) if text),
                )
            )
    headings = ("recipe", "group", "rule", "tensors", "weights", "learning rate", "weight decay", "why")
    return table(headings, body, caption="Parameter groups of each recipe", class_="groups")


def settings(comparison: Comparison) -> Markup:
    """The settings that each recipe ran at, and what the sweep says of them."""
    tried: dict[str, list[dict[str, Any]]] = comparison.sweep.get("tries", {})
    body = []
    for colour, run in enumerate(comparison.runs):
        tries = tried.get(run.recipe, [])
        losses = [one["loss"] for one in tries if one["loss"] is not None]
        written = ", ".join(f"{name} = {numbers.setting(value)}" for name, value in run.settings.items())
        body.append(
            (
                name_of(run.title, colour),
                tag("code", written) if written else "as the recipe is written",
                numbers.count(len(tries)),
                numbers.count(len(tries) - len(losses)),
                numbers.loss(min(losses, default=None)),
            )
        )
    headings = ("recipe", "settings", "tries", "diverged", "best loss in the sweep")
    return table(headings, body, caption="Settings of each recipe", class_="settings")


def evaluations(comparison: Comparison) -> Markup:
    """The numbers behind the curves."""
    runs = comparison.runs
    measured = [{evaluation.step: evaluation for evaluation in run.evaluations} for run in runs]
    steps = sorted({step for one in measured for step in one})
    body = []
    for step in steps:
        row: list[object] = [numbers.count(step)]
        for one in measured:
            found = one.get(step)
            row.append(numbers.loss(found.loss) if found else numbers.MISSING)
            row.append(numbers.seconds(found.seconds) if found else numbers.MISSING)
        body.append(row)
    headings: list[object] = ["step"]
    for colour, run in enumerate(runs):
        headings += [name_of(run.title, colour), "seconds"]
    return table(headings, body, caption="Validation loss and seconds at every evaluation", class_="evaluations")
