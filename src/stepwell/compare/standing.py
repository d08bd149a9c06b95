"""How the recipes of a fair test stand beside the first of them, the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.compare.fair import lowest
from stepwell.compare.kept import HALF, LONGER, SEED, TWICE, Outcome
from stepwell.compare.results import first_reach

# Outcomes of one recipe on one task, by stage.
Stages = Mapping[str, Outcome]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One recipe on one task. None stands for what was not run, not reached, or not finite.

    Args:
        recipe: its name.
        settings: those of the best try.
        tries: how many were run.
        diverged: how many of them diverged.
        losses: the last validation losses of the fresh seeds.
        mean, spread: of these, the spread from the lowest to the highest.
        steps_to_baseline: the median over the fresh seeds of the steps to the baseline's final loss from the same
            seed, as a part of the horizon; a seed that never gets there counts as infinitely many.
        longer: the last loss of the longer run.
        longer_to_baseline: as `steps_to_baseline`, over the longer horizon.
        half, twice: the loss at half and at twice the best rate, over that of the best try.
        state_bytes: of the optimizer's state.
    """

    recipe: str
    settings: dict[str, Any]
    tries: int
    diverged: int
    losses: tuple[float, ...]
    mean: float | None
    spread: float | None
    steps_to_baseline: float | None
    longer: float | None
    longer_to_baseline: float | None
    half: float | None
    twice: float | None
    state_bytes: int


def standings(outcomes: Mapping[str, Stages]) -> list[Standing]:
    """A line for each recipe that has been tried, in the order given; the first is the baseline."""
    if not outcomes:
        return []
    baseline = next(iter(outcomes.values()))
    return [_standing(recipe, stages, baseline) for recipe, stages in outcomes.items() if tries(stages)]


def tries(stages: Stages) -> list[Outcome]:
    """The tries among the stages."""
    return [outcome for outcome in stages.values() if outcome.order.is_try]


def fresh(stages: Stages) -> dict[str, Outcome]:
    """The runs from fresh seeds."""
    return {stage: outcome for stage, outcome in stages.items() if stage.startswith(SEED)}


def divergences(stages: Stages) -> list[str]:
    """What of the runs after the tries diverged, and where, in words: the table has no number in their place."""
    names = {HALF: "the run at half the rate", TWICE: "the run at twice the rate", LONGER: "the longer run"}
    return [
        f"{names.get(stage, stage.replace('-', ' '))} diverged at step {outcome.diverged_at}"
        for stage, outcome in stages.items()
        if outcome.diverged_at is not None and not outcome.order.is_try
    ]


def _standing(recipe: str, stages: Stages, baseline: Stages) -> Standing:
    tried = tries(stages)
    best = lowest(tried)
    seeds = fresh(stages)
    finite = tuple(outcome.loss for outcome in seeds.values() if outcome.loss is not None)
    whole = bool(finite) and len(finite) == len(seeds)
    parts = [part_to(outcome, baseline.get(stage)) for stage, outcome in seeds.items()]
    return Standing(
        recipe=recipe,
        settings=best.order.settings if best else {},
        tries=len(tried),
        diverged=sum(outcome.diverged for outcome in tried),
        losses=finite,
        mean=statistics.fmean(finite) if whole else None,
        spread=max(finite) - min(finite) if whole else None,
        steps_to_baseline=_median(parts),
        longer=stages[LONGER].loss if LONGER in stages else None,
        longer_to_baseline=part_to(stages[LONGER], baseline.get(LONGER)) if LONGER in stages else None,
        half=_over(stages.get(HALF), best),
        twice=_over(stages.get(TWICE), best),
        state_bytes=best.state_bytes if best else 0,
    )


def part_to(outcome: Outcome, baseline: Outcome | None) -> float | None:
    """The steps to the final loss of the baseline's run, as a part of the horizon; None where it is not reached."""
    if baseline is None or baseline.loss is None or outcome.diverged_at is not None:
        return None
    step, _ = first_reach(outcome.evaluations, baseline.loss)
    return None if step is None else step / outcome.order.steps


def _median(parts: Sequence[float | None]) -> float | None:
    """The middle one, where None is more than any number."""
    if not parts:
        return None
    ordered = sorted(parts, key=lambda part: float("inf") if part is None else part)
    return ordered[len(ordered) // 2]


def _over(outcome: Outcome | None, best: Outcome | None) -> float | None:
    if outcome is None or outcome.loss is None or best is None or not best.loss:
        return None
    return outcome.loss / best.loss
