"""docs/choosing.md: a decision for each case, and under it the numbers that the runs found for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.markdown import table
from bench.quality.asks import OnTask, percent
from bench.quality.claims import CLAIMS, NOT_RUN
from stepwell.compare.fair_contestants import BASELINE, RULES
from stepwell.compare.standing import Standing
from stepwell.text import numbers

Tasks = Mapping[str, OnTask]
_TRANSFORMERS = ("vit", "gpt", "bytegpt", "gpt-wide", "experts", "adapting")


@dataclass(frozen=True)
class Branch:
    """A case, what to take in it, and what the runs say of that, a line each."""

    case: str
    advice: str
    cites: tuple[Callable[[Tasks], Iterator[str]], ...] = ()


def text(tasks: Tasks) -> str:
    """The decisions and the table, as Markdown."""
    parts = []
    for number, branch in enumerate(BRANCHES, start=1):
        cited = [line for cite in branch.cites for line in cite(tasks)]
        parts.append(f"{number}. **{branch.case}** {branch.advice}" + "".join(f"\n    - {line}" for line in cited))
    return "\n".join(("", *parts, "", *_table(tasks)))


def whole(task: OnTask) -> dict[str, Standing]:
    """The rules that have been through the whole protocol; a part of it is no result."""
    return {rule: one for rule, one in task.standings.items() if one.longer is not None}


def more(ratio: float | None) -> str:
    return numbers.MISSING if ratio is None else f"{ratio - 1:+.1%}"


def _beside_adamw(rule: str, *only: str) -> Callable[[Tasks], Iterator[str]]:
    """The rule's loss, steps and seconds beside AdamW's, on all tasks or on these."""

    def cite(tasks: Tasks) -> Iterator[str]:
        said = []
        for name, task in tasks.items():
            standings = whole(task)
            ratio = _ratio(standings.get(rule), standings.get(BASELINE))
            if ratio is None or (only and name not in only):
                continue
            one = standings[rule]
            steps = "" if one.steps_to_baseline is None else f" in {percent(one.steps_to_baseline)} of the steps"
            paces = task.pace.get(rule), task.pace.get(BASELINE)
            time = ""
            if steps and paces[0] and paces[1]:
                time = f" and {percent((one.steps_to_baseline or 0) * paces[0] / paces[1])} of the time"
            reached = f" (at AdamW's{steps}{time})" if steps else ""
            said.append(f"{more(ratio)} on `{name}`{reached}")
        if said:
            yield f"{RULES[rule].title}, loss over AdamW's: {', '.join(said)}."

    return cite


def _claimed(*beginnings: str) -> Callable[[Tasks], Iterator[str]]:
    """The verdicts on the claims that begin so."""

    def cite(tasks: Tasks) -> Iterator[str]:
        for beginning in beginnings:
            (claim,) = (one for one in CLAIMS if one.says.startswith(beginning))
            verdict, words = claim.verdict(tasks)
            if verdict != NOT_RUN:
                yield f"“{claim.says}”: *{verdict}* ({'; '.join(words)})."

    return cite


def _missed(name: str) -> Callable[[Tasks], Iterator[str]]:
    """Whose best try is beaten on a task by half or twice its rate."""

    def cite(tasks: Tasks) -> Iterator[str]:
        found = []
        for rule, one in (whole(tasks[name]) if name in tasks else {}).items():
            low = min((ratio, what) for ratio, what in ((one.half or 1.0, "half"), (one.twice or 1.0, "twice")))
            if rule in RULES and low[0] < 1:
                found.append(f"{RULES[rule].title} {more(low[0])} at {low[1]}")
        if found:
            yield f"Better on `{name}` at half or twice the rate of the best try: {', '.join(found)}."

    return cite


def _off_by_two(tasks: Tasks) -> Iterator[str]:
    """Which rules lose least by a rate that is off by a factor of two."""
    worst = {RULES[rule].title: cost for rule in RULES if (cost := _worst_by_rate(rule, tasks)) is not None}
    if worst:
        ranked = sorted(worst, key=lambda title: worst[title])
        told = ", ".join(f"{title} {worst[title]:+.0%}" for title in (*ranked[:3], ranked[-1]))
        yield (
            f"Loss at half or twice the best `lr`, the worse of both, on the worst task: {told} (the most); of Muon "
            "that is the rate of its matrices alone."
        )


BRANCHES = (
    Branch(
        "You fine-tune, or want no surprises.",
        'Stay with AdamW: `create_optimizer(model, "finetune")`, or "llrd" for rates that fall from layer to layer.',
        (_claimed("Layer-wise rates"),),
    ),
    Branch(
        "You train a transformer from scratch and want fewer steps.",
        '"muon": Muon for hidden matrices, AdamW for the rest. "soap" is the other rule of matrices. A step of either '
        "costs more, so look at the time too, not at the steps alone.",
        (_beside_adamw("muon", *_TRANSFORMERS), _beside_adamw("soap", *_TRANSFORMERS)),
    ),
    Branch(
        "You do not know how long you will train.",
        '"schedule-free": no schedule, and a good model at any step. Evaluate and save inside `optimizer.averaged()`.',
        (_claimed("Schedule-Free is"),),
    ),
    Branch(
        "You know how long, and want the last per cent.",
        "Let the rate end at zero. Linearly and with a cosine differ by little, and not always in one direction.",
        (_claimed("Linear to zero", "Warm-up, stable"),),
    ),
    Branch(
        "Memory is short.",
        'First store AdamW\'s state in 8 bits (`state_dtype="8bit"`), or the weights in 16 (`master="stochastic"`): '
        "the settings stay. Then Lion (half of AdamW's state, a smaller rate) or Adafactor (next to no state).",
        (_claimed("8-bit", "bfloat16 weights with stochastic", "Lion matches", "Adafactor costs"),),
    ),
    Branch(
        "Convolutions and batch norm.",
        "SGD with momentum is the habit; rules that adapt their rate are worth as many tries. On `resnet` the seeds "
        "lie far apart and eight tries miss the best rate of most rules, so that little of this is certain.",
        (*(_beside_adamw(rule, "resnet") for rule in ("sgd", "muon", "adafactor", "schedule-free")), _missed("resnet")),
    ),
    Branch(
        "You have no time to find a rate.",
        'A range test ([`stepwell find-lr`](schedules.md#finding-a-rate)) costs a minute. "prodigy" finds a rate on '
        "the way, at twice the state, and needs some hundred steps for it.",
        (_beside_adamw("prodigy"), _off_by_two),
    ),
    Branch(
        "You want to know it for your task.",
        "`stepwell compare --task module:function --fair 8` runs the protocol of the evidence on it: every recipe with "
        "as many tries, three fresh seeds, and a longer run. Small tasks answer in minutes.",
    ),
)


def _worst_by_rate(rule: str, tasks: Tasks) -> float | None:
    """The most that half or twice the best rate costs, over all tasks."""
    standings = [found[rule] for task in tasks.values() if rule in (found := whole(task))]
    off = [ratio - 1 for one in standings for ratio in (one.half, one.twice) if ratio is not None]
    return max(off, default=None)


def _table(tasks: Tasks) -> Iterator[str]:
    """Each rule on one line: its loss over AdamW's by task, what half and twice the rate cost, and its state."""
    standings = {name: found for name, task in tasks.items() if BASELINE in (found := whole(task))}
    yield "## Every rule\n"
    yield (
        "Mean loss of three seeds over AdamW's, each rule tuned with as many tries; what half or twice the rate costs "
        "at worst; and state, as a share of AdamW's, at most.\n"
    )
    columns = ("rule", *(f"loss on `{name}`" for name in standings), "rate off by 2", "state")
    rows = []
    for rule, contestant in RULES.items():
        found = {name: by_rule[rule] for name, by_rule in standings.items() if rule in by_rule}
        if not found:
            continue
        losses = [more(_ratio(found.get(name), by_rule.get(BASELINE))) for name, by_rule in standings.items()]
        state = [one.state_bytes / standings[name][BASELINE].state_bytes for name, one in found.items()]
        worst = _worst_by_rate(rule, tasks)
        off = numbers.MISSING if worst is None else f"{worst:+.0%}"
        rows.append((contestant.title, *losses, off, f"{max(state):.0%}"))
    yield table(columns, rows)


def _ratio(one: Standing | None, baseline: Standing | None) -> float | None:
    if one is None or baseline is None or one.mean is None or not baseline.mean:
        return None
    return one.mean / baseline.mean
