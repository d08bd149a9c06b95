"""What the seeds and the papers claim, and by what rule each is judged: stated before the runs, worked out from them.

A claim is asked of every task that it can be asked of, and each answers with the share of the claim that was found
there. All of it everywhere *holds*, none of it anywhere is *not at this scale*, and what lies between is *partly*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.quality.asks import (
    ALIKE,
    Ask,
    OnTask,
    at_a_third,
    batch,
    beaten_by,
    costs_at_most,
    endless,
    entrant_ends_lower,
    fewer_steps,
    less_time,
    needs_warmup,
    smooths,
    typical,
)
from stepwell.compare.fair_contestants import BASELINE

HOLDS, PARTLY, NOT_HERE, NOT_RUN = "holds", "partly", "not at this scale", "not run yet"
# The tasks that most claims are asked of.
USUAL = ("vit", "resnet", "gpt")


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

    def verdict(self, tasks: Mapping[str, OnTask]) -> tuple[str, list[str]]:
        """The verdict, and the numbers of every task, in words. It says so where tasks are still to be asked."""
        asked = tasks if self.of else {"": OnTask({})}
        found = {name: answer for name, task in asked.items() if (answer := self.ask(task)) is not None}
        if not found:
            return NOT_RUN, []
        words = [f"`{name}`: {answer.words}" if name else answer.words for name, answer in found.items()]
        shares = [answer.share for answer in found.values()]
        held = HOLDS if all(share == 1 for share in shares) else PARTLY
        verdict = NOT_HERE if all(share == 0 for share in shares) else held
        missing = [name for name in self.of if name not in found]
        return (f"{verdict}, so far without {', '.join(missing)}" if missing else verdict), words


_PAIRED = "paired by seed, mean over the fresh seeds"
_HORIZONS = "on the horizon (median of the fresh seeds) and on the longer one; half the claim each"

CLAIMS = (
    Claim(
        "SOAP needs at least 40 % fewer steps than AdamW",
        "Vyas et al. 2024, arXiv:2409.11321",
        f"steps to AdamW's final loss are at most 60 % of the horizon, {_HORIZONS}",
        fewer_steps("soap", 0.60),
    ),
    Claim(
        "SOAP needs at least 35 % less time",
        "Vyas et al. 2024, arXiv:2409.11321",
        f"the same steps times the time of a step are at most 65 % of AdamW's time, {_HORIZONS}",
        less_time("soap", 0.65),
    ),
    Claim(
        "Muon needs a third fewer steps than AdamW",
        "Jordan et al. 2024; modded-nanogpt, track 3: 3,250 against 4,950",
        f"steps to AdamW's final loss are at most 67 % of the horizon, {_HORIZONS}",
        fewer_steps("muon", 0.67),
    ),
    Claim(
        "Muon is faster in seconds too, on a CPU",
        "ours",
        f"the same steps times the time of a step are less than AdamW's time, {_HORIZONS}",
        less_time("muon", 1.0),
    ),
    Claim(
        "Lion matches AdamW at a third of its rate (and three times its decay), with half its state",
        "Chen et al. 2023, arXiv:2302.06675, sec. 5",
        "at AdamW's best settings so converted, not tuned: the mean loss is within 1 % or the spread of AdamW's seeds; "
        "state bytes are at most 51 %; half the claim each",
        at_a_third,
    ),
    Claim(
        "Adafactor costs at most 0.5 % of loss",
        "Shazeer & Stern 2018, arXiv:1804.04235",
        f"tuned as all rules are: loss over AdamW's, {_PAIRED}",
        costs_at_most(0.005, "", "adafactor"),
    ),
    Claim(
        "8-bit state costs at most 0.5 % of loss",
        "Dettmers et al. 2022, arXiv:2110.02861",
        f"AdamW at its best settings with 8-bit state: loss over that with float32 state, {_PAIRED}",
        costs_at_most(0.005, "8bit"),
        of=("vit", "gpt"),
    ),
    Claim(
        "bfloat16 weights with stochastic rounding cost at most 0.5 % of loss",
        "Zamirai et al. 2020, arXiv:2010.06192",
        f"AdamW at its best settings, weights in bfloat16, the model computed in float32: loss over that with float32 "
        f"weights, {_PAIRED}",
        costs_at_most(0.005, "stochastic"),
        of=("vit", "gpt"),
    ),
    Claim(
        "bfloat16 weights rounded to the nearest would do as well",
        "the counter-claim, that stochastic rounding is not needed",
        "the same with rounding to the nearest",
        costs_at_most(0.005, "nearest"),
        of=("vit", "gpt"),
    ),
    Claim(
        "Schedule-Free is at or under cosine at every horizon, without knowing it",
        "Defazio et al. 2024, arXiv:2405.15682, fig. 1",
        "one Schedule-Free run over the longer horizon, against AdamW with a cosine for a half, one, two and four "
        "horizons from the same seed: at or under; a quarter of the claim each",
        endless,
        of=("vit", "gpt"),
    ),
    Claim(
        "Warm-up prevents early divergence",
        "the lecture; Goyal et al. 2017, arXiv:1706.02677",
        "each rule without warm-up, at its best rate and at four times that, ends more than 5 % above itself with it "
        "(or not at all) at either; the share of the rules",
        needs_warmup,
        of=("vit", "gpt"),
    ),
    Claim(
        "Undecayed norms and biases help",
        "a habit of most training code",
        "AdamW at its best settings with everything decayed ends higher, in the mean and from most seeds",
        beaten_by(BASELINE, "all-decayed"),
        of=("vit", "gpt"),
    ),
    Claim(
        "Layer-wise rates help fine-tuning",
        "Howard & Ruder 2018, arXiv:1801.06146; Clark et al. 2020, arXiv:2003.10555",
        "AdamW with rates of 0.8 a layer, tuned with as many tries, ends lower, in the mean and from most seeds",
        entrant_ends_lower("adamw-layerwise"),
        of=("adapting",),
    ),
    Claim(
        "Linear to zero ends lower than cosine",
        "Defazio et al. 2023, arXiv:2310.07831; Bergsma et al. 2025, arXiv:2502.15938",
        "AdamW under each, tuned with as many tries: lower, in the mean and from most seeds",
        entrant_ends_lower("adamw-linear"),
        of=("vit", "gpt"),
    ),
    Claim(
        "Warm-up, stable, decay does as well as cosine",
        "Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392",
        f"AdamW under each, tuned with as many tries: at most 1 % above, {_PAIRED}",
        costs_at_most(ALIKE, "", "adamw-wsd"),
        of=("vit", "gpt"),
    ),
    Claim(
        "A batch twice as large wants √2 times the rate (Adam)",
        "the lecture; Malladi et al. 2022, arXiv:2205.10287",
        "AdamW at 1, √2 and 2 times its best rate on twice the batch, as many images: √2 ends lowest in the mean",
        batch(BASELINE, "root"),
        of=("vit", "resnet"),
    ),
    Claim(
        "A batch twice as large wants 2 times the rate (SGD)",
        "Goyal et al. 2017, arXiv:1706.02677, sec. 2.1",
        "SGD likewise: 2 ends lowest in the mean",
        batch("sgd", "twice"),
        of=("vit", "resnet"),
    ),
    Claim(
        "Momentum smooths the way down a ravine",
        "the lecture",
        "SGD without and with a momentum of 0.9 on a quadratic 100 times as steep one way, each at the best of the "
        "rates on a grid: fewer steps to a hundredth of the distance, and fewer of them turn back; half the claim each",
        smooths,
        of=(),
    ),
    Claim(
        "The lecture's typical learning rates are where the best ones are found",
        "the lecture, learning-rate range",
        "the best try's rate lies in the lecture's range; the share of its rules",
        typical,
    ),
)
