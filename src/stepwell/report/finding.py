"""The finding of a comparison in one or two plain sentences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from stepwell.compare.results import Comparison, Row
from stepwell.text import numbers

BUSY = 1.3


def finding(comparison: Comparison) -> str:
    """What the comparison found, first of all for the eye: who reached the baseline's final loss, and how soon."""
    rows = comparison.rows
    if not rows or all(row.final_loss is None for row in rows):
        return "Every run diverged." if any(row.status == "diverged" for row in rows) else "No loss was measured."
    baseline, *others = rows
    if baseline.final_loss is None:
        best = _lowest(rows)
        return f"{baseline.title} diverged; {best.title} ended lowest, at {numbers.loss(best.final_loss)}."
    if not others:
        end = numbers.loss(baseline.final_loss)
        return f"{baseline.title} ended at {end} after {numbers.counted(baseline.steps, 'step')}."
    reached = [row for row in others if row.steps_to_baseline is not None]
    if not reached:
        return f"No recipe reached the final loss of {baseline.title}, {numbers.loss(baseline.final_loss)}."
    first = min(reached, key=lambda row: row.steps_to_baseline or 0.0)
    return (
        f"{first.title} reached the final loss of {baseline.title} in "
        f"{numbers.share(part(first.steps_to_baseline, baseline.steps_to_baseline))} of its steps and "
        f"{numbers.share(part(first.seconds_to_baseline, baseline.seconds_to_baseline))} of its seconds."
    )


def caution(comparison: Comparison) -> str:
    """What the numbers do not say."""
    rows = comparison.rows
    parts = [
        f"{row.title} diverged after {numbers.counted(row.steps, 'step')}." for row in rows if row.status == "diverged"
    ]
    if comparison.interrupted:
        if not rows:
            return "Interrupted during the sweep: no comparison was run."
        done = [row.steps for row in rows if row.status != "diverged"] or [row.steps for row in rows]
        low, high = numbers.count(min(done)), numbers.count(max(done))
        reach = low if low == high else f"{low} to {high}"
        compared = (
            "" if comparison.last_step is None else f", and losses are compared after step {comparison.last_step}"
        )
        total = numbers.count(comparison.steps)
        parts.append(f"Interrupted after {reach} of {total} steps: schedules had not ended{compared}.")
    parts += [
        f"{name} diverged in all of its {len(tries)} tries, and is left out."
        for name, tries in comparison.sweep.get("tries", {}).items()
        if tries and all(one["loss"] is None for one in tries)
    ]
    tuned, own = by_tuning(comparison)
    if tuned and own:
        parts.append(f"{listed(own)} ran as written, while others were tuned.")
    strain = max((slowdown(run.step_seconds) for run in comparison.runs), default=1.0)
    if strain > BUSY:
        parts.append(
            f"The machine was busy elsewhere: steps took up to {strain:.1f} times their median on average, so read the "
            "seconds with care."
        )
    return " ".join(parts)


def by_tuning(comparison: Comparison) -> tuple[list[str], list[str]]:
    """The titles of the recipes that were tuned by a sweep, and of those that ran as they are written."""
    tried = {name for name, tries in comparison.sweep.get("tries", {}).items() if tries}
    titles: tuple[list[str], list[str]] = ([], [])
    for run in comparison.runs:
        titles[run.recipe not in tried].append(run.title)
    return titles


def listed(titles: Sequence[str]) -> str:
    """The titles, with commas and an and between them."""
    return " and ".join((", ".join(titles[:-1]), titles[-1])) if len(titles) > 1 else titles[0]


def part(value: float | None, whole: float | None) -> float | None:
    return value / whole if value is not None and whole else None


def slowdown(seconds: Sequence[float]) -> float:
    """Mean over median: 1 where nothing disturbed the clock."""
    return statistics.mean(seconds) / statistics.median(seconds) if seconds else 1.0


def _lowest(rows: list[Row]) -> Row:
    return min((row for row in rows if row.final_loss is not None), key=lambda row: row.final_loss or 0.0)
