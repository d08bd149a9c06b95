"""What the seeds and the papers claim, and by what rule each is judged: stated before the runs, worked out from them.

A claim is asked of every task that it can be asked of, and each answers with the share of the claim that was found
there. All of it everywhere *holds*, none of it anywhere is *not at this scale*, and what lies between is *partly*.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.quality import ravine
from bench.quality.pace import Pace
from bench.quality.rules import BASELINE, RULES
from bench.quality.variations import BATCH_FACTORS, on
from stepwell.advice_tables import LEARNING_RATES, Range
from stepwell.compare.fair import LONGER, Outcome
from stepwell.compare.standing import Stages, Standing, fresh, standings

HOLDS, PARTLY, NOT_HERE, NOT_RUN = "holds", "partly", "not at this scale", "not run yet"
# The tasks that most claims are asked of.
USUAL = ("vit", "resnet", "gpt")
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
    """All that was run on one task, and milliseconds a step."""

    outcomes: Mapping[str, Stages]
    pace: Pace = field(default_factory=dict)
    name: str = ""

    @property
    def standings(self) -> dict[str, Standing]:
        return {one.recipe: one for one in standings(self.outcomes)}


Ask = Callable[[OnTask], Found | None]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        says: what is claimed.
        source: by whom.
        measured: how it is judged, in words.
        ask: what a task says; None where it has not been run there, or not all that it takes.
        of: the tasks that are to be asked; none where the claim is about no task, and is asked once.
    """

    says: str
    source: str
    measured: str
    ask: Ask
    of: tuple[str, ...] = USUAL

    def verdict(self, tasks: Mapping[str, OnTask]) -> tuple[str, str]:
        """The verdict, and the numbers of every task. It says so where tasks are still to be asked."""
        asked = tasks if self.of else {"": OnTask({})}
        found = {name: answer for name, task in asked.items() if (answer := self.ask(task)) is not None}
        if not found:
            return NOT_RUN, ""
        words = "; ".join(f"{name}: {answer.words}" if name else answer.words for name, answer in found.items())
        shares = [answer.share for answer in found.values()]
        held = HOLDS if all(share == 1 for share in shares) else PARTLY
        verdict = NOT_HERE if all(share == 0 for share in shares) else held
        missing = [name for name in self.of if name not in found]
        return (f"{verdict}, so far without {', '.join(missing)}" if missing else verdict), words


def _fewer_steps(rule: str, part: float) -> Ask:
    def ask(task: OnTask) -> Found | None:
        one = task.standings.get(rule)
        if one is None or one.longer is None or not one.losses:
            return None
        parts = (one.steps_to_baseline, one.longer_to_baseline)
        held = sum(reached is not None and reached <= part for reached in parts)
        return Found(held / 2, f"{percent(parts[0])} of the steps, {percent(parts[1])} over the longer horizon")

    return ask


def _less_time(rule: str, part: float) -> Ask:
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
            f"{percent(parts[0])} of the time, {percent(parts[1])} over the longer horizon "
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


def _costs_at_most(cost: float, name: str, rule: str = BASELINE) -> Ask:
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


def _beaten_by(rule: str, name: str, other: str = BASELINE) -> Ask:
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


def _entrant_ends_lower(entrant: str) -> Ask:
    def ask(task: OnTask) -> Found | None:
        found = ratios(fresh(task.outcomes.get(BASELINE, {})), fresh(task.outcomes.get(entrant, {})))
        if not found:
            return None
        above, mean = sum(one > 1 for one in found), statistics.fmean(found)
        words = f"AdamW ends {mean - 1:+.2%} beside it, higher from {above} of {len(found)} seeds"
        return Found(float(mean > 1 and above > len(found) / 2), words)

    return ask


def _at_a_third(task: OnTask) -> Found | None:
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


def _endless(task: OnTask) -> Found | None:
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


def _needs_warmup(task: OnTask) -> Found | None:
    needs: dict[str, list[str]] = {"best": [], "strained": []}
    asked = [one.rule for one in on(task.name) if one.name == "cold"]
    for rule in asked:
        stages = task.outcomes.get(rule, {})
        if not {"cold", "cold-strained", "warm-strained"} <= stages.keys():
            return None
        warm = task.standings[rule]
        tried = min(run.loss for run in stages.values() if run.order.stage.startswith("try-") and run.loss is not None)
        if _worse(stages["cold"], tried):
            needs["best"].append(rule)
        if warm is not None and _worse(stages["cold-strained"], stages["warm-strained"].loss):
            needs["strained"].append(rule)
    if not asked:
        return None
    at_best, strained = (", ".join(names) or "none" for names in needs.values())
    return Found(
        len(set(needs["best"]) | set(needs["strained"])) / len(asked),
        f"of {len(asked)} rules in need at the best rate: {at_best}; at four times that: {strained}",
    )


def _worse(cold: Outcome, warm: float | None) -> bool:
    """Whether the cold start broke what the warm one did not."""
    return warm is not None and (cold.loss is None or cold.loss > NEEDS * warm)


def _batch(rule: str, best: str) -> Ask:
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


def _typical(task: OnTask) -> Found | None:
    said: dict[str, Range] = {rule: LEARNING_RATES[name] for rule, name in _LECTURED.items()}
    found = {rule: one.settings["lr"] for rule, one in task.standings.items() if rule in said and "lr" in one.settings}
    if len(found) < len(said):
        return None
    inside = [rule for rule, rate in found.items() if said[rule].low <= rate <= said[rule].high]
    words = ", ".join(
        f"{RULES[rule].title} {rate:.2g} ({said[rule].low:g} to {said[rule].high:g})" for rule, rate in found.items()
    )
    return Found(len(inside) / len(found), words)


def _smooths(_: OnTask) -> Found:
    plain, smooth = ravine.walks()
    held = (smooth.turns < plain.turns) + (smooth.steps < plain.steps)
    words = (
        f"{plain.steps} steps without, {smooth.steps} with; the step turns back across the ravine in "
        f"{plain.turns:.0%} of them without, {smooth.turns:.0%} with"
    )
    return Found(held / 2, words)


def percent(part: float | None) -> str:
    return "not in all" if part is None else f"{part:.0%}"


_PAIRED = "paired by seed, mean over the fresh seeds"
_HORIZONS = "on the horizon (median of the fresh seeds) and on the longer one; half the claim each"

CLAIMS = (
    Claim(
        "SOAP needs at least 40 % fewer steps than AdamW",
        "Vyas et al. 2024, arXiv:2409.11321",
        f"steps to AdamW's final loss are at most 60 % of the horizon, {_HORIZONS}",
        _fewer_steps("soap", 0.60),
    ),
    Claim(
        "and at least 35 % less time",
        "Vyas et al. 2024, arXiv:2409.11321",
        f"the same steps times the time of a step are at most 65 % of AdamW's time, {_HORIZONS}",
        _less_time("soap", 0.65),
    ),
    Claim(
        "Muon needs a third fewer steps than AdamW",
        "Jordan et al. 2024; modded-nanogpt, track 3: 3,250 against 4,950",
        f"steps to AdamW's final loss are at most 67 % of the horizon, {_HORIZONS}",
        _fewer_steps("muon", 0.67),
    ),
    Claim(
        "and is faster in seconds too, on a CPU",
        "ours",
        f"the same steps times the time of a step are less than AdamW's time, {_HORIZONS}",
        _less_time("muon", 1.0),
    ),
    Claim(
        "Lion matches AdamW at a third of its rate (and three times its decay), with half its state",
        "Chen et al. 2023, arXiv:2302.06675, sec. 5",
        "at AdamW's best settings so converted, not tuned: the mean loss is within 1 % or the spread of AdamW's seeds; "
        "state bytes are at most 51 %; half the claim each",
        _at_a_third,
    ),
    Claim(
        "Adafactor costs at most 0.5 % of loss",
        "Shazeer & Stern 2018, arXiv:1804.04235",
        f"tuned as all rules are: loss over AdamW's, {_PAIRED}",
        _costs_at_most(0.005, "", "adafactor"),
    ),
    Claim(
        "8-bit state costs at most 0.5 % of loss",
        "Dettmers et al. 2022, arXiv:2110.02861",
        f"AdamW at its best settings with 8-bit state: loss over that with float32 state, {_PAIRED}",
        _costs_at_most(0.005, "8bit"),
        of=("vit", "gpt"),
    ),
    Claim(
        "bfloat16 weights with stochastic rounding cost at most 0.5 % of loss",
        "Zamirai et al. 2020, arXiv:2010.06192",
        f"AdamW at its best settings, weights in bfloat16, the model computed in float32: loss over that with float32 "
        f"weights, {_PAIRED}",
        _costs_at_most(0.005, "stochastic"),
        of=("vit", "gpt"),
    ),
    Claim(
        "bfloat16 weights rounded to the nearest would do as well",
        "the counter-claim, that stochastic rounding is not needed",
        "the same with rounding to the nearest",
        _costs_at_most(0.005, "nearest"),
        of=("vit", "gpt"),
    ),
    Claim(
        "Schedule-Free is at or under cosine at every horizon, without knowing it",
        "Defazio et al. 2024, arXiv:2405.15682, fig. 1",
        "one Schedule-Free run over the longer horizon, against AdamW with a cosine for a half, one, two and four "
        "horizons from the same seed: at or under; a quarter of the claim each",
        _endless,
        of=("vit", "gpt"),
    ),
    Claim(
        "Warm-up prevents early divergence",
        "the lecture; Goyal et al. 2017, arXiv:1706.02677",
        "each rule without warm-up, at its best rate and at four times that, ends more than 5 % above itself with it "
        "(or not at all) at either; the share of the rules",
        _needs_warmup,
        of=("vit", "gpt"),
    ),
    Claim(
        "Undecayed norms and biases help",
        "a habit of most training code",
        "AdamW at its best settings with everything decayed ends higher, in the mean and from most seeds",
        _beaten_by(BASELINE, "all-decayed"),
        of=("vit", "gpt"),
    ),
    Claim(
        "Layer-wise rates help fine-tuning",
        "Howard & Ruder 2018, arXiv:1801.06146; Clark et al. 2020, arXiv:2003.10555",
        "AdamW with rates of 0.8 a layer, tuned with as many tries, ends lower, in the mean and from most seeds",
        _entrant_ends_lower("adamw-layerwise"),
        of=("adapting",),
    ),
    Claim(
        "Linear to zero ends lower than cosine",
        "Defazio et al. 2023, arXiv:2310.07831; Bergsma et al. 2025, arXiv:2502.15938",
        "AdamW under each, tuned with as many tries: lower, in the mean and from most seeds",
        _entrant_ends_lower("adamw-linear"),
        of=("vit", "gpt"),
    ),
    Claim(
        "Warm-up, stable, decay does as well as cosine",
        "Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392",
        f"AdamW under each, tuned with as many tries: at most 1 % above, {_PAIRED}",
        _costs_at_most(ALIKE, "", "adamw-wsd"),
        of=("vit", "gpt"),
    ),
    Claim(
        "A batch twice as large wants √2 times the rate (Adam)",
        "the lecture; Malladi et al. 2022, arXiv:2205.10287",
        "AdamW at 1, √2 and 2 times its best rate on twice the batch, as many images: √2 ends lowest in the mean",
        _batch(BASELINE, "root"),
        of=("vit", "resnet"),
    ),
    Claim(
        "A batch twice as large wants 2 times the rate (SGD)",
        "Goyal et al. 2017, arXiv:1706.02677, sec. 2.1",
        "SGD likewise: 2 ends lowest in the mean",
        _batch("sgd", "twice"),
        of=("vit", "resnet"),
    ),
    Claim(
        "Momentum smooths the way down a ravine",
        "the lecture",
        "SGD without and with a momentum of 0.9 on a quadratic 100 times as steep one way, each at the best of the "
        "rates on a grid: fewer steps to a hundredth of the distance, and fewer of them turn back; half the claim each",
        _smooths,
        of=(),
    ),
    Claim(
        "The lecture's typical learning rates are where the best ones are found",
        "the lecture, learning-rate range",
        "the best try's rate lies in the lecture's range; the share of its rules",
        _typical,
    ),
)
