"""`python -m bench gallery`: the gallery in docs/optimizers.md, from rules and results, and docs/paths.svg."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench import paths
from bench.contenders import OURS
from bench.markdown import table
from bench.records import Report, StepRow, load_all
from bench.subjects import SUBJECTS
from bench.table import milliseconds
from stepwell.catalogue import Entry, entries
from stepwell.rules.registry import rule_class
from stepwell.text import numbers

_DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = _DOCS / "optimizers.md", _DOCS / "paths.svg"
BEGIN = "<!-- From here to the end of the gallery the page is written by `python -m bench gallery`. -->"
END = "<!-- End of the gallery. -->"
NOT_MEASURED = "not measured"

# When to use each rule.
WHEN = {
    "AdaBelief": "In place of Adam where gradients are noisy; its ε matters more than Adam's.",
    "Adadelta": "Where no rate is to be chosen and time does not press: `lr=1` is the paper's.",
    "Adafactor": "When the optimizer's state is what does not fit; add `beta1` if training wobbles.",
    "Adagrad": "Sparse features and convex problems; in long training its rate dies out.",
    "Adam": "Small networks without weight decay; with decay take AdamW.",
    "Adamax": "Embeddings and other gradients that are zero most of the time.",
    "AdamMini": "AdamW with half of its state; queries and keys in a group of their own, with `heads`.",
    "AdaMuon": "Where Muon serves, and rates tuned for AdamW are to be kept.",
    "AdamW": "The first choice for transformers, and the baseline for all others.",
    "Adan": "Vision transformers and few epochs, where four slots are no worry.",
    "AdEMAMix": "Long training of language models, where gradients of long ago still tell; give it its warm-ups.",
    "ADOPT": "Where Adam's β₂ would need tuning: it converges for any.",
    "ASGD": "Convex problems, to evaluate on the average; for networks take Schedule-Free.",
    "CAME": "Large models whose second moment does not fit, where Adafactor is unstable.",
    "DAdaptAdam": "When there is no time to tune a rate; Prodigy finds it sooner.",
    "Dion": "As Muon, for matrices so large that a low rank has to do (`rank_fraction`).",
    "Kron": "Ill-conditioned problems, and recurrent networks; state and work grow with the sides of the matrices.",
    "LAMB": "Batches of tens of thousands of samples for transformers.",
    "LARS": "Batches of thousands of images for convolutional networks.",
    "Lion": "Half of AdamW's state, and large batches; a rate 3–10 times smaller, a decay as much larger.",
    "MARS": "Pretraining of language models, with a third slot to spare.",
    "Muon": "The hidden matrices of transformers and convolutions; `create_optimizer` gives the rest to AdamW.",
    "NAdam": "As Adam, where a few steps fewer count.",
    "NorMuon": "As Muon, where some neurons get far larger updates than others.",
    "NovoGrad": "Speech and vision with half of Adam's state.",
    "Prodigy": "Fine-tuning without a rate to tune: leave `lr=1`, and anneal it by a cosine.",
    "RAdam": "In place of Adam with a warm-up.",
    "RMSprop": "Reinforcement learning and recurrent networks.",
    "Rprop": "Whole batches only: small data, where each step sees all of it.",
    "ScheduleFreeAdamW": "Training whose end is not known beforehand; evaluate inside `optimizer.averaged()`.",
    "ScheduleFreeRAdam": "As Schedule-Free AdamW, without a warm-up to choose.",
    "ScheduleFreeSGD": "As SGD with momentum, without a schedule.",
    "Scion": "Rates that carry over from small models to large ones; state the radius (`scale`) of each kind of layer.",
    "SGD": "Convolutional networks, with `momentum=0.9` (a slot) and a schedule; and wherever memory is all.",
    "Shampoo": "Matrices of moderate sides; SOAP is its steadier successor.",
    "SignSGD": "Gradients sent as signs between machines; with `momentum` (a slot) it is Signum.",
    "SOAP": "The fewest steps to a loss, when there is memory for four square matrices a weight.",
    "StableAdamW": "AdamW with loss spikes, as in bfloat16 or with large images and texts.",
    "Tiger": "As Lion, with one β to tune.",
    "Yogi": "As Adam, where sudden small gradients make the steps too large.",
}

_INTRODUCTION = """\
## Gallery

State is counted for a parameter of 768 × 3072 under the defaults: numbers of state, and bytes in float32, for each
number of the parameter. `stepwell list` and `stepwell.list_optimizers` choose among them by it. A rule acts on
*elements* (any cut of a tensor gives the same result), *tensors* (it takes a norm or a mean over the whole parameter)
or *matrices* (it takes hidden layers only). Times are those of [Benchmarks](benchmarks.md).
"""


def write(page: Path = PAGE) -> Path:
    """Write the gallery into the page, between its two marks; what stands around it stays."""
    page.write_text(text(page.read_text(encoding="utf-8"), load_all()), encoding="utf-8")
    return page


def draw(picture: Path = PICTURE) -> Path:
    """Draw the paths."""
    walks = [paths.best_walk(entry.name) for entry in own_entries()]
    picture.write_text(paths.drawing(walks) + "\n", encoding="utf-8")
    return picture


def text(page: str, reports: Sequence[Report]) -> str:
    """The page with the gallery of these results. Raises ValueError where the page lacks one of the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the two lines {BEGIN!r} and {END!r}")
    found = own_entries()
    parts = [_INTRODUCTION, _table(found, reports), _picture()]
    parts += [_section(entry, reports) for entry in found]
    return "".join((before, begin, "\n\n", "\n".join(parts), "\n", end, after))


def own_entries() -> list[Entry]:
    """The rules of the package: a program may have defined some of its own."""
    return [entry for entry in entries() if rule_class(entry.name).__module__.startswith("stepwell.rules.")]


def measured(name: str, reports: Sequence[Report]) -> list[tuple[str, StepRow]]:
    """The step of this rule in float32, on the largest tensors of each machine that it was measured on."""
    titles = {subject.title for subject in SUBJECTS.values() if type(subject.rule).__name__ == name and subject.plain}
    found = []
    for report in reports:
        rows = [row for row in report.rows if isinstance(row, StepRow) and row.rule in titles]
        if rows:
            found.append((report.machine.title, max(rows, key=lambda row: row.parameters)))
    return found


def _table(found: Sequence[Entry], reports: Sequence[Report]) -> str:
    lines = []
    for entry in found:
        rows = measured(entry.name, reports)
        time = _time(rows[0][1], entry.name) if rows else NOT_MEASURED
        cells = (f"[`{entry.name}`](#{entry.name.lower()})", entry.about, entry.acts_on, *_state(entry), time)
        lines.append(cells)
    return table(("rule", "what it does", "acts on", "state", "bytes", "a step"), lines)


def _picture() -> str:
    rates = f"{paths.RATES[0]:g} to {paths.RATES[-1]:g}"
    return f"""\
![The path of each rule over a curved valley]({PICTURE.name})

{paths.STEPS} steps of each rule over f(x, y) = (1 − x)² + {paths.STEEPNESS:g}·(y − x²)², without noise and decay.
The rate in the corner is the one of 1, 2 and 5 in each power of ten, from {rates}, that ends lowest and stays in the
picture. The two numbers are a matrix of 1 × 2, so that the rules of matrices take part: for Muon and its kin the
orthogonal factor of such a matrix is the direction itself, at length 1. How a rule does on two numbers says how it
moves, and nothing of how it trains a network.
"""


def _section(entry: Entry, reports: Sequence[Report]) -> str:
    state, size = _state(entry)
    slots = f" (`{'`, `'.join(entry.slots)}`)" if entry.slots else ""
    times = (
        "; ".join(f"{_time(row, entry.name)} on {machine}" for machine, row in measured(entry.name, reports))
        or NOT_MEASURED
    )
    return f"""\
### {entry.name}

{entry.about} ({linked(entry.source)}).

```text
{entry.formula}
```

- When: {WHEN[entry.name]}
- Acts on {entry.acts_on}. State a parameter: {state}{slots}, {size} bytes.
- A step: {times}.
"""


def _state(entry: Entry) -> tuple[str, str]:
    return numbers.rate(entry.memory), numbers.rate(4 * entry.memory)


def _time(row: StepRow, name: str) -> str:
    """The time and what it was measured on; which form of the rule, where its name does not say that."""
    plain = re.sub(r"\W", "", row.rule).casefold() == name.casefold()
    about = row.shapes if plain else f"{row.rule}, {row.shapes}"
    return f"{milliseconds(row.timings[OURS].median)} ({about})"


def linked(source: str) -> str:
    """A source whose arXiv number is a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
