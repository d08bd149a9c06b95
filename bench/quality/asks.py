"""Questions to the runs of one task: what share of a claim they bear out, and the numbers in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.quality import ravine
from bench.quality.pace import Pace
from bench.quality.variations import BATCH_FACTORS, on
from stepwell.advice.tables import LEARNING_RATES, Range
from stepwell.compare.fair_contestants import BASELINE, RULES
from stepwell.compare.kept import LONGER, Outcome
from stepwell.compare.standing import Stages, Standing, fresh, standings

# Losses of two means that differ by less are alike, whatever the seeds say.
ALIKE = 0.01
# A cold start that ends so much above the warm one was in need of it.
NEEDS = 1.05


@dataclass(frozen=True)
class Found:
    """What one task says: the share of the claim that was found there, and the numbers in words."""

    share: float
    words: str


@dataclass(frozen=True)
class OnTask:
    """All that was run on one task, and milliseconds a step, with the machine that they are of."""

    outcomes: Mapping[str, Stages]
    pace: Pace = field(default_factory=dict)
    name: str = ""
    clock: str = ""

    @property
    def standings(self) -> dict[str, Standing]:
        return {one.recipe: one for one in standings(self.outcomes)}


Ask = Callable[[OnTask], Found | None]


def fewer_steps(rule: str, part: float) -> Ask:
    def ask(task: OnTask) -> Found | None:
        one = task.standings.get(rule)
        if one is None or one.longer is None or not one.losses:
            return None
        parts = (one.steps_to_baseline, one.longer_to_baseline)
        held = sum(reached is not None and reached <= part for reached in parts)
        return Found(held / 2, f"{_part(parts[0], 'steps')}, {_part(parts[1])} over the longer horizon")

    return ask


def less_time(rule: str, part: float) -> Ask:
    def ask(task: OnTask) -> Found | None:
        one = task.standings.get(rule)
        if one is None or one.longer is None or not one.losses or not {rule, BASELINE} <= task.pace.keys():
            return None
        ratio = task.pace[rule] / task.pace[BASELINE]
        parts = [
            None if reached is None else reached * ratio for reached in (one.steps_to_baseline, one.longer_to_baseline)
        ]
        held = sum(reached is not None and reached <= part for reached in parts)
        return Found(
            held / 2,
            f"{_part(parts[0], 'time')}, {_part(parts[1])} over the longer horizon "
            f"(a step takes {ratio:.2f} times AdamW's)",
        )

    return ask


def _variation(name: str, stages: Stages) -> dict[str, Outcome]:
    """The runs of a variation, under the names of the rule's own runs from the same seeds."""
    return {
        f"seed-{stage.removeprefix(f'{name}-')}": run for stage, run in stages.items() if stage.startswith(f"{name}-")
    }


def ratios(runs: Mapping[str, Outcome], others: Mapping[str, Outcome]) -> list[float]:
    """Last loss over last loss, seed by seed; infinite where the first diverged."""
    return [
        float("inf") if run.loss is None else run.loss / other.loss
        for stage, run in runs.items()
        if (other := others.get(stage)) is not None and other.loss
    ]


def costs_at_most(cost: float, name: str, rule: str = BASELINE) -> Ask:
    """The variation of AdamW, or where it is "" the rule, loses at most this part of AdamW's loss."""

    def ask(task: OnTask) -> Found | None:
        stages = task.outcomes.get(rule, {})
        runs = _variation(name, stages) if name else fresh(stages)
        found = ratios(runs, fresh(task.outcomes.get(BASELINE, {})))
        if not found:
            return None
        mean = statistics.fmean(found) - 1
        return Found(float(mean <= cost), f"{mean:+.2%} ({', '.join(f'{one - 1:+.1%}' for one in found)})")

    return ask


def beaten_by(rule: str, name: str, other: str = BASELINE) -> Ask:
    """The rule's own runs end lower than the variation's: in the mean, and from most seeds."""

    def ask(task: OnTask) -> Found | None:
        stages = task.outcomes.get(rule, {})
        found = ratios(_variation(name, stages), fresh(task.outcomes.get(other, {})))
        return _mostly_above(found)

    return ask


def _mostly_above(found: list[float]) -> Found | None:
    if not found:
        return None
    above = sum(one > 1 for one in found)
    mean = statistics.fmean(found)
    return Found(
        float(mean > 1 and above > len(found) / 2), f"{mean - 1:+.2%} without, worse from {above} of {len(found)} seeds"
    )


def entrant_ends_lower(entrant: str) -> Ask:
    def ask(task: OnTask) -> Found | None:
        found = ratios(fresh(task.outcomes.get(BASELINE, {})), fresh(task.outcomes.get(entrant, {})))
        if not found:
            return None
        above, mean = sum(one > 1 for one in found), statistics.fmean(found)
        words = f"AdamW ends {mean - 1:+.2%} beside it, higher from {above} of {len(found)} seeds"
        if longer := ratios(_longer(task, BASELINE), _longer(task, entrant)):
            words += f"; {longer[0] - 1:+.2%} over the longer horizon (one seed)"
        return Found(float(mean > 1 and above > len(found) / 2), words)

    return ask


def _longer(task: OnTask, rule: str) -> dict[str, Outcome]:
    stages = task.outcomes.get(rule, {})
    return {LONGER: stages[LONGER]} if LONGER in stages else {}


def at_a_third(task: OnTask) -> Found | None:
    runs = _variation("third", task.outcomes.get("lion", {}))
    found = ratios(runs, fresh(task.outcomes.get(BASELINE, {})))
    if not found:
        return None
    baseline = task.standings[BASELINE]
    mean, spread = statistics.fmean(found), (baseline.spread or 0.0) / (baseline.mean or 1.0)
    share = task.standings["lion"].state_bytes / baseline.state_bytes
    matches = mean <= 1 + max(ALIKE, spread)
    return Found(
        (matches + (share <= 0.51)) / 2,
        f"{mean - 1:+.1%} of loss, where AdamW's seeds lie {spread:.1%} apart; {share:.0%} of the state",
    )


def endless(task: OnTask) -> Found | None:
    endless = task.outcomes.get("schedule-free", {}).get("endless")
    adamw = task.outcomes.get(BASELINE, {})
    cosines = [adamw.get(stage) for stage in ("horizon-half", "seed-1", "horizon-twice", LONGER)]
    known = [run for run in cosines if run is not None and run.loss is not None]
    if endless is None or len(known) < len(cosines):
        return None
    differences = []
    for run in known:
        loss = loss_at(endless, run.order.steps)
        differences.append(float("inf") if loss is None else loss / (run.loss or 1.0) - 1)
    words = ", ".join(
        f"{difference:+.1%} at {run.order.steps:,}" for run, difference in zip(known, differences, strict=True)
    )
    return Found(sum(difference <= 0 for difference in differences) / len(differences), words)


def loss_at(run: Outcome, step: int) -> float | None:
    """The loss after a step, on the straight line between two evaluations."""
    for (before, high), (after, low) in zip(run.losses, run.losses[1:], strict=False):
        if before <= step <= after:
            return high + (low - high) * (step - before) / (after - before)
    return None


def needs_warmup(task: OnTask) -> Found | None:
    needs: dict[str, list[str]] = {"best": [], "strained": [], "neither": []}
    asked = [one.rule for one in on(task.name) if one.name == "cold"]
    for rule in asked:
        stages = task.outcomes.get(rule, {})
        if not {"cold", "cold-strained", "warm-strained"} <= stages.keys():
            return None
        warm = task.standings[rule]
        tried = min(run.loss for run in stages.values() if run.order.stage.startswith("try-") and run.loss is not None)
        if _worse(stages["cold"], tried):
            needs["best"].append(rule)
        elif (stages["cold"].loss or math.inf) < tried:
            needs["neither"].append(rule)
        if warm is not None and _worse(stages["cold-strained"], stages["warm-strained"].loss):
            needs["strained"].append(rule)
    if not asked:
        return None
    at_best, strained, neither = (", ".join(names) or "none" for names in needs.values())
    return Found(
        len(set(needs["best"]) | set(needs["strained"])) / len(asked),
        f"of {len(asked)} rules in need at the best rate: {at_best}; at four times that: {strained}; lower without it "
        f"at the best rate: {neither} (one seed)",
    )


def _worse(cold: Outcome, warm: float | None) -> bool:
    """Whether the cold start broke what the warm one did not."""
    return warm is not None and (cold.loss is None or cold.loss > NEEDS * warm)


def batch(rule: str, best: str) -> Ask:
    """Of the three rates on a doubled batch, this one ends lowest in the mean."""

    def ask(task: OnTask) -> Found | None:
        stages = task.outcomes.get(rule, {})
        means = {}
        for name in BATCH_FACTORS:
            runs = list(_variation(f"batch-{name}", stages).values())
            if not runs:
                return None
            means[name] = statistics.fmean(float("inf") if run.loss is None else run.loss for run in runs)
        words = ", ".join(f"× {factor:.3g}: {means[name]:.4g}" for name, factor in BATCH_FACTORS.items())
        return Found(float(min(means, key=lambda name: means[name]) == best), words)

    return ask


_LECTURED = {"sgd": "sgd-momentum", "adamw": "adamw", "rmsprop": "rmsprop", "adagrad": "adagrad", "lion": "lion"}


def typical(task: OnTask) -> Found | None:
    said: dict[str, Range] = {rule: LEARNING_RATES[name] for rule, name in _LECTURED.items()}
    found = {rule: one.settings["lr"] for rule, one in task.standings.items() if rule in said and "lr" in one.settings}
    if len(found) < len(said):
        return None
    inside = [rule for rule, rate in found.items() if said[rule].low <= rate <= said[rule].high]
    words = ", ".join(
        f"{RULES[rule].title} {rate:.2g} ({said[rule].low:g} to {said[rule].high:g})" for rule, rate in found.items()
    )
    return Found(len(inside) / len(found), words)


def smooths(_: OnTask) -> Found:
    plain, smooth = ravine.walks()
    held = (smooth.turns < plain.turns) + (smooth.steps < plain.steps)
    words = (
        f"{plain.steps} steps without, {smooth.steps} with; the step turns back across the ravine in "
        f"{plain.turns:.0%} of them without, {smooth.turns:.0%} with"
    )
    return Found(held / 2, words)


def _part(part: float | None, of: str = "") -> str:
    """A part of AdamW's steps or time, in words."""
    return percent(part) if part is None or not of else f"{percent(part)} of the {of}"


def percent(part: float | None) -> str:
    return "never" if part is None else f"{part:.0%}"
