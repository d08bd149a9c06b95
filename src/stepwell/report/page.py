"""The report: one HTML file that needs nothing else, neither network nor script, to be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files

from stepwell.compare.results import Comparison, RunResult
from stepwell.pictures import charts
from stepwell.pictures.charts import Series
from stepwell.pictures.markup import Markup, joined, stylesheet, tag
from stepwell.pictures.sampled import thinned
from stepwell.report import tables
from stepwell.report.finding import by_tuning, caution, finding, listed
from stepwell.text import numbers

# The share of the steps after which the first, steep fall of a loss is over.
PAST_THE_FALL = 0.2


def render(comparison: Comparison) -> str:
    """The report of a comparison as one HTML document."""
    title = f"{comparison.task}: {', '.join(run.title for run in comparison.runs) or 'nothing run'}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"stepwell compare – {title}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", stylesheet()),
    )
    body = tag(
        "body", _header(comparison), tag("main", *_sections(comparison)), _footer(comparison), _script(comparison)
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(comparison: Comparison) -> Iterator[Markup]:
    if comparison.runs:
        yield section("results", "Results", "", tables.results(comparison))
        yield _curves(comparison)
        yield _schedules(comparison)
        yield section(
            "groups",
            "Parameter groups",
            "Which rule updates which weights, at which base learning rate and decay, and why.",
            tables.groups(comparison),
        )
    if comparison.sweep:
        yield _sweep(comparison)
    yield section("protocol", "Protocol", "", tag("ul", *(tag("li", line) for line in protocol(comparison))))


def section(name: str, title: str, lead: str, *content: Markup) -> Markup:
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, tag("p", lead, class_="lead") if lead else "", *content, id=name)


def _header(comparison: Comparison) -> Markup:
    steps = [tag("path", d=f"M{8 * index} {4 + 8 * index}h{104 - 16 * index}") for index in range(6)]
    well = tag("svg", *steps, viewBox="-2 0 108 50", class_="well", aria_hidden="true")
    warning = caution(comparison)
    facts = (
        ("task", comparison.task),
        ("steps", numbers.count(comparison.steps)),
        ("seed", str(comparison.seed)),
        ("threads", str(comparison.threads)),
        *((name, value) for name, value in comparison.versions.items()),
    )
    return tag(
        "header",
        tag("div", well, tag("p", "stepwell compare", class_="brand"), class_="top"),
        tag("h1", finding(comparison)),
        tag("p", warning, class_="caution", role="note") if warning else "",
        tag("p", comparison.about, class_="lead") if comparison.about else "",
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts"),
    )


def _footer(comparison: Comparison) -> Markup:
    note = f"Written by stepwell {comparison.versions.get('stepwell', '')}. Every number is in results.json beside it."
    return tag("footer", note)


def _curves(comparison: Comparison) -> Markup:
    rows = comparison.rows
    target = rows[0].final_loss
    by_step, by_second = [], []
    for colour, (run, row) in enumerate(zip(comparison.runs, rows, strict=True)):
        steps = [(float(one.step), one.loss) for one in run.evaluations]
        seconds = [(one.seconds, one.loss) for one in run.evaluations]
        marked = colour > 0 and target is not None
        step, second = (row.steps_to_baseline, row.seconds_to_baseline) if marked else (None, None)
        reached = [None if at is None or target is None else (at, target) for at in (step, second)]
        by_step.append(Series(name=run.title, colour=colour, points=steps, reach=reached[0]))
        by_second.append(Series(name=run.title, colour=colour, points=seconds, reach=reached[1]))
    ended = [one for one, run in zip(by_step, comparison.runs, strict=True) if run.status != "diverged"]
    losses = charts.loss_range(ended or by_step, PAST_THE_FALL * max(run.steps for run in comparison.runs))
    figures = (
        _figure(
            "Against steps",
            charts.curves(by_step, unit="steps", losses=losses, target=target, write=numbers.count),
        ),
        _figure(
            "Against seconds",
            charts.curves(by_second, unit="seconds", losses=losses, target=target, write=numbers.seconds),
        ),
    )
    buttons = tag(
        "div",
        *(
            tag("button", tables.name_of(run.title, colour), type="button", aria_pressed="true", data_toggle=colour)
            for colour, run in enumerate(comparison.runs)
        ),
        class_="legend",
        role="group",
        aria_label="Recipes shown",
    )
    details = tag(
        "details", tag("summary", "The numbers behind the curves"), tables.evaluations(comparison), class_="numbers"
    )
    lead = "Validation loss" + (
        f". Dashed: the baseline’s final loss, {numbers.loss(target)}; a ring marks where a recipe reaches it."
        if target is not None
        else "."
    )
    return section("curves", "Loss", lead, buttons, tag("div", *figures, class_="pair"), details)


def _figure(caption: str, drawing: Markup) -> Markup:
    return tag("figure", tag("figcaption", caption), drawing)


def _schedules(comparison: Comparison) -> Markup:
    figures = [
        _figure_of(run.title, colour, charts.schedule(_rates(run, colour), steps=comparison.steps), _peaks(run))
        for colour, run in enumerate(comparison.runs)
    ]
    lead = "The learning rate of every step as it was used, one line for each rate that differs between groups."
    return section("schedules", "Schedules", lead, tag("div", *figures, class_="small"))


def _figure_of(title: str, colour: int, drawing: Markup, note: str) -> Markup:
    return tag("figure", tag("figcaption", tables.name_of(title, colour)), drawing, tag("p", note, class_="note"))


def _rates(run: RunResult, colour: int) -> list[Series]:
    """The learning rates of a run's groups, those that are the same drawn once."""
    different = {tuple(rates): name for name, rates in reversed(run.lr.items())}
    return [
        Series(name=name, colour=colour, points=thinned([(float(step), rate) for step, rate in enumerate(rates)]))
        for rates, name in different.items()
    ]


def _peaks(run: RunResult) -> str:
    peaks: dict[float, list[str]] = {}
    for group in run.groups:
        peaks.setdefault(group.lr, []).append(group.name)
    if len(peaks) == 1:
        return f"peak {numbers.rate(next(iter(peaks)))}"
    return "; ".join(f"{numbers.rate(peak)} for {', '.join(names)}" for peak, names in peaks.items())


def _sweep(comparison: Comparison) -> Markup:
    sweep = comparison.sweep
    tries = {run.recipe: sweep["tries"].get(run.recipe, []) for run in comparison.runs} or sweep["tries"]
    titles = {run.recipe: run.title for run in comparison.runs}
    finite = {
        name: [
            (float(one["settings"]["lr"]), float(one["loss"]))
            for one in found
            if one["loss"] is not None and "lr" in one["settings"]
        ]
        for name, found in tries.items()
    }
    losses = sorted(loss for points in finite.values() for _, loss in points)
    figures = []
    if losses:
        low, worst = losses[0], losses[int(0.9 * (len(losses) - 1))]
        pad = 0.08 * (worst - low) or 0.1
        figures = [
            _figure_of(
                titles.get(name, name),
                colour,
                charts.tries(points, min(points, key=lambda p: p[1]), colour, low=low - pad, high=worst + pad),
                f"{len(tries[name])} tries",
            )
            for colour, (name, points) in enumerate(finite.items())
            if points
        ]
    lead = (
        f"Last validation loss of every try against its learning rate: {sweep['tries_each']} tries for each recipe on "
        f"task {sweep['task']}, {numbers.count(sweep['steps'])} steps each, seed {sweep['seed']}. Other "
        "hyper-parameters were searched at the same time, so tries at one rate differ. Losses above the axis stand at "
        "its top."
    )
    if any("lr" not in one["settings"] for found in tries.values() for one in found):
        lead += " A recipe whose learning rate is 0 keeps it, and has no chart."
    return section("sweep", "The sweep", lead, tag("div", *figures, class_="small"), tables.settings(comparison))


def protocol(comparison: Comparison) -> list[str]:
    """How the comparison was made, sentence by sentence."""
    lines = [
        "Every recipe starts from the same weights and sees the same batches in the same order; every step draws the "
        f"same random numbers. Seed {comparison.seed}.",
        "The recipes take turns on the same machine, one at a time, from evaluation to evaluation. Seconds count the "
        "steps alone (batch, loss, backward, optimizer, scheduler), without evaluations and the first compilation.",
        "Time a step is the median; the optimizer’s share is the median time inside optimizer.step(), clipping "
        "included, over that of a step.",
        "Steps and seconds to the baseline’s final loss are read off the validation curve at its first crossing, on "
        "the straight line between two evaluations.",
        f"{_clipping(comparison.clip_norm)} Optimizer state counts the tensors that the optimizer keeps between steps.",
    ]
    sweep = comparison.sweep
    tuned, own = by_tuning(comparison)
    if tuned:
        elsewhere = "" if sweep["task"] == comparison.task else f" on another task ({sweep['task']}), not on this one"
        lines.append(
            f"Settings{f' of {listed(tuned)}' if own else ''} are the best of {sweep['tries_each']} tries for each "
            f"recipe, the baseline’s betas and decay included, found{elsewhere} by a sweep with seed {sweep['seed']} "
            f"on {sweep['date']} (torch "
            f"{sweep['versions']['torch']}). Half of the tries are spread over the ranges, half around the best of the "
            "first half. stepwell compare --sweep searches again."
        )
    if own:
        lines.append(f"{listed(own)} ran as written, without a search for better settings.")
    lines.append("One run for each recipe: differences of a few hundredths may change with --seed.")
    return lines


def _clipping(norm: float | None) -> str:
    if norm is None:
        return "Gradients are clipped where a recipe says so."
    return f"Gradients are clipped to a global norm of {norm:g} in every recipe."


def _script(comparison: Comparison) -> Markup:
    data = [
        {
            "name": run.title,
            "steps": [one.step for one in run.evaluations],
            "seconds": [round(one.seconds, 3) for one in run.evaluations],
            "loss": [one.loss for one in run.evaluations],
            "class": charts.shade(colour),
        }
        for colour, run in enumerate(comparison.runs)
    ]
    written = json.dumps(data).replace("<", "\\u003c")
    return joined(tag("script", Markup(written), type="application/json", id="data"), tag("script", _behaviour()))


def _behaviour() -> Markup:
    return Markup(files("stepwell.report").joinpath("script.js").read_text(encoding="utf-8"))
