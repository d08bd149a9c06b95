"""Where to start: ranges for learning rate, decay and warm-up, with the reasoning line by line."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from stepwell.advice import tables
from stepwell.advice.measured import measured
from stepwell.advice.tables import Range
from stepwell.schedules.fields import check_choice, check_count, check_flag, check_number

Architecture = Literal["cnn", "resnet", "transformer"]
OPTIMIZERS = (*tables.LEARNING_RATES, "muon")


@dataclass(frozen=True)
class Suggestion:
    """A range for one value, and how it came about.

    Args:
        name: "lr", "weight_decay", "warmup" (a share of the steps), "warmup_steps", "step_decay_every" (steps) or
            "step_decay_gamma".
        low: from here …
        high: … to here; the same where a source names one value.
        lines: the reasoning, a line for each step of it, each with its source.
    """

    name: str
    low: float
    high: float
    lines: tuple[str, ...]

    def times(self, factor: float, why: str) -> Suggestion:
        """The same, multiplied, for a reason."""
        return replace(
            self, low=self.low * factor, high=self.high * factor, lines=(*self.lines, f"× {factor:.3g}: {why}")
        )

    def __str__(self) -> str:
        return f"{self.name} {written(self.low, self.high)}"


@dataclass(frozen=True)
class Advice:
    """What is suggested. Where sources disagree, there are several suggestions for one name.

    `advice["lr"]` gives those for the learning rate; printing it shows everything with its reasons.
    """

    suggestions: tuple[Suggestion, ...]

    def __getitem__(self, name: str) -> tuple[Suggestion, ...]:
        found = tuple(one for one in self.suggestions if one.name == name)
        if not found:
            there = ", ".join(dict.fromkeys(one.name for one in self.suggestions))
            raise KeyError(f"there is no advice on {name!r}; there is on {there}")
        return found

    def __str__(self) -> str:
        blocks = []
        for name in dict.fromkeys(one.name for one in self.suggestions):
            found = self[name]
            said = "\n    or, by another source,\n".join(
                "\n".join([f"  {written(one.low, one.high)}", *(f"    {line}" for line in one.lines)]) for one in found
            )
            blocks.append(f"{name}\n{said}")
        return "\n".join(blocks)


def advise(
    optimizer: str = "adamw",
    *,
    architecture: Architecture | None = None,
    samples: int | None = None,
    data: Literal["simple", "complex"] | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    reference_batch_size: int | None = None,
    fine_tuning: bool = False,
    transfer_learning: bool = False,
    deeper: bool = False,
    unstable: bool = False,
    beta2: float = 0.999,
    adamw_lr: float | None = None,
    adamw_weight_decay: float | None = None,
) -> Advice:
    """Ranges to start a search in, from tables, papers and runs of ours on small tasks, with their sources. Nothing is
    looked up or measured when it is called.

        print(advise("adamw", architecture="transformer", samples=2_000_000, steps=50_000))

    Args:
        optimizer: "sgd", "sgd-momentum", "adam", "adamw", "rmsprop", "adagrad", "lion" or "muon"; case and
            underscores do not matter.
        architecture: "cnn", "resnet" or "transformer".
        samples: training samples, at least 1.
        data: "simple" (linear relations) or "complex".
        epochs: passes over the data, above 0.
        steps: total optimizer steps, at least 1.
        batch_size: samples in a step, at least 1.
        reference_batch_size: the batch size that a rate you know was found at: rates are scaled from it.
        fine_tuning: all weights of a trained model are trained on, at a tenth of the rates of the tables.
        transfer_learning: a trained model is used on another task.
        deeper: the network is deeper than what the rate was found for; `adamw_lr` too.
        unstable: training has been unstable; at `adamw_lr` too, where that is given.
        beta2: of Adam and its kin, at least 0 and below 1.
        adamw_lr: a rate of AdamW that is known to work here, for this fine-tuning if it is one. The rates of Adam, Lion
            and Muon are converted from it; they come first, and decay is reckoned from them.
        adamw_weight_decay: its decay, likewise.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or out of range.
    """
    folded = optimizer.casefold().replace("_", "-") if isinstance(optimizer, str) else optimizer
    optimizer = folded if folded in OPTIMIZERS else check_choice("optimizer", optimizer, OPTIMIZERS)
    for name, value, known in (
        ("architecture", architecture, tuple(tables.DECAY_BY_ARCHITECTURE)),
        ("data", data, tuple(tables.DECAY_BY_DATA)),
    ):
        if value is not None:
            check_choice(name, value, known)
    for name, number in (
        ("samples", samples),
        ("steps", steps),
        ("batch_size", batch_size),
        ("reference_batch_size", reference_batch_size),
    ):
        if number is not None:
            check_count(name, number)
    for name, positive in (("epochs", epochs), ("adamw_lr", adamw_lr), ("adamw_weight_decay", adamw_weight_decay)):
        if positive is not None:
            check_number(name, positive, above=0)
    for name, yes in (
        ("fine_tuning", fine_tuning),
        ("transfer_learning", transfer_learning),
        ("deeper", deeper),
        ("unstable", unstable),
    ):
        check_flag(name, yes)
    if not check_number("beta2", beta2, least=0) < 1:
        raise ValueError(f"beta2 must be below 1, got {beta2}")
    if reference_batch_size is not None and batch_size is None:
        raise ValueError("reference_batch_size says what a rate was found at; give batch_size to scale it to")

    rates = _rates(optimizer, adamw_lr, fine_tuning)
    ratio = batch_size / reference_batch_size if batch_size and reference_batch_size else 1.0
    rates = [scaled for rate in rates for scaled in _scaled(rate, optimizer, ratio)]
    for wanted, (factor, source) in (
        (deeper, tables.RATE_DEEPER),
        (unstable, tables.RATE_UNSTABLE),
    ):
        if wanted:
            rates = [rate.times(factor, source) for rate in rates]
    return Advice(
        (
            *rates,
            *_measured("lr", optimizer),
            *_decays(optimizer, rates[0], architecture, samples, data, epochs, steps, adamw_weight_decay),
            *_measured("weight_decay", optimizer),
            *_warmups(optimizer, architecture, samples, batch_size, fine_tuning, transfer_learning, unstable, beta2),
            _said("step_decay_every", tables.STEP_DECAY_EVERY),
            _said("step_decay_gamma", tables.STEP_DECAY_GAMMA),
        )
    )


def _rates(optimizer: str, adamw_lr: float | None, fine_tuning: bool) -> list[Suggestion]:
    """The rates of the tables and what comes of AdamW's, which is first where it is known."""

    def table(said: Range) -> Suggestion:
        # The tables speak of training from scratch; a rate that is known here is not of that kind.
        rate = _said("lr", said)
        return rate.times(*tables.RATE_FINE_TUNING) if fine_tuning else rate

    found = [table(tables.LEARNING_RATES[optimizer])] if optimizer in tables.LEARNING_RATES else []
    adamws = table(tables.LEARNING_RATES["adamw"]) if adamw_lr is None else _known("lr", adamw_lr)
    if optimizer in tables.FROM_ADAMW:
        converted = _converted(adamws, tables.FROM_ADAMW[optimizer][0])
        found = [*found, converted] if adamw_lr is None else [converted, *found]
    elif optimizer in ("adam", "adamw"):
        found = [adamws]
    if optimizer == "muon":
        found.append(table(tables.MUON_ORIGINAL))
    return found


def _scaled(rate: Suggestion, optimizer: str, ratio: float) -> list[Suggestion]:
    """The rate for another batch size: by the root, and for SGD also in proportion."""
    if ratio == 1:
        return [rate]
    times = f"a batch {ratio:.3g} times as large"
    found = [rate.times(math.sqrt(ratio), f"{times}, by its root ({tables.BATCH_SQRT})")]
    if optimizer.startswith("sgd"):
        found.append(rate.times(ratio, f"{times}, in proportion ({tables.BATCH_LINEAR})"))
    return found


def _decays(
    optimizer: str,
    rate: Suggestion,
    architecture: str | None,
    samples: int | None,
    data: str | None,
    epochs: float | None,
    steps: int | None,
    adamw_weight_decay: float | None,
) -> list[Suggestion]:
    found = []
    if samples is not None:
        what, base = next((what, base) for most, what, base in tables.DECAY_BY_SAMPLES if samples <= most)
        decay = Suggestion("weight_decay", base.low, base.high, (f"{base.low:g}: {what} ({base.source})",))
        if architecture is not None:
            factor = tables.DECAY_BY_ARCHITECTURE[architecture]
            decay = decay.times(factor, f"{architecture} ({tables.DECAY_SOURCE})")
        if data is not None:
            decay = decay.times(tables.DECAY_BY_DATA[data], f"{data} data ({tables.DECAY_SOURCE})")
        (short, by_short), (long, by_long) = tables.DECAY_SHORT, tables.DECAY_LONG
        if epochs is not None and epochs < short:
            decay = decay.times(by_short, f"short, < {short} epochs ({tables.DECAY_SOURCE})")
        elif epochs is not None and epochs > long:
            decay = decay.times(by_long, f"long, > {long} epochs ({tables.DECAY_SOURCE})")
        found.append(decay)
    if adamw_weight_decay is None:
        adamws = [_said("weight_decay", in_use) for in_use in tables.DECAY_IN_USE]
    else:
        adamws = [_known("weight_decay", adamw_weight_decay)]
    if optimizer in tables.FROM_ADAMW:
        found += [_converted(decay, tables.FROM_ADAMW[optimizer][1]) for decay in adamws]
    elif optimizer == "adamw":
        found += adamws
    if steps is not None and optimizer in ("adamw", "lion", "muon"):
        found.append(_by_timescale(rate, steps, epochs))
    return found


def _by_timescale(rate: Suggestion, steps: int, epochs: float | None) -> Suggestion:
    """The decay whose average reaches back over the whole training, or no further than one epoch."""
    middle = math.sqrt(rate.low * rate.high)
    whole = 1 / (middle * steps)
    lines = [f"1 / (lr · steps) = 1 / ({middle:.3g} · {steps}): averages over the whole training ({tables.TIMESCALE})"]
    low = high = whole
    if epochs is not None and epochs > 1:
        high = whole * epochs
        lines.append(f"to {high:.3g}: averages over one of {epochs:g} epochs (same source)")
    return Suggestion("weight_decay", low, high, tuple(lines))


def _warmups(
    optimizer: str,
    architecture: str | None,
    samples: int | None,
    batch_size: int | None,
    fine_tuning: bool,
    transfer_learning: bool,
    unstable: bool,
    beta2: float,
) -> list[Suggestion]:
    ranges: list[Range] = []
    if architecture is not None:
        ranges.append(tables.WARMUP_BY_MODEL[architecture][1])
    if fine_tuning:
        ranges.append(tables.WARMUP_FINE_TUNING)
    if transfer_learning:
        ranges.append(tables.WARMUP_TRANSFER)
    if samples is not None and samples <= tables.DECAY_BY_SAMPLES[0][0]:
        ranges.append(tables.WARMUP_SMALL_DATA)
    if batch_size is not None and batch_size > tables.WARMUP_LARGE_BATCH[0]:
        ranges.append(tables.WARMUP_LARGE_BATCH[1])
    found = [_said("warmup", one) for one in ranges]
    if unstable:
        more, source = tables.WARMUP_UNSTABLE
        found = [
            replace(one, low=one.low + more, high=one.high + more, lines=(*one.lines, f"+ {more:g} ({source})"))
            for one in found
        ]
    if optimizer in ("adam", "adamw"):
        count = round(2 / (1 - beta2))
        line = f"2 / (1 − {beta2:g}) = {count} steps ({tables.WARMUP_UNTUNED})"
        found.append(Suggestion("warmup_steps", count, count, (line,)))
    return found


def _measured(name: str, optimizer: str) -> list[Suggestion]:
    """What was best in our own runs, as it was found: from the task with the lowest to that with the highest."""
    found = {one.source: float(one.settings[name]) for one in measured(tables.MEASURED_AS.get(optimizer, optimizer))}
    if not found:
        return []
    lines = (*(f"{value:.4g} ({source})" for source, value in found.items()), tables.MEASURED_CAUTION)
    return [Suggestion(name, min(found.values()), max(found.values()), lines)]


def _said(name: str, said: Range) -> Suggestion:
    return Suggestion(name, said.low, said.high, (f"{written(said.low, said.high)} ({said.source})",))


def _known(name: str, value: float) -> Suggestion:
    return Suggestion(name, value, value, (f"{value:g}: AdamW's, as given",))


def _converted(base: Suggestion, factor: Range) -> Suggestion:
    by = f"× {written(factor.low, factor.high)} ({factor.source})"
    return replace(base, low=base.low * factor.low, high=base.high * factor.high, lines=(*base.lines, by))


def written(low: float, high: float) -> str:
    """A range as text."""
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def as_data(advice: Advice) -> list[dict[str, Any]]:
    """The advice as plain lists and dicts, for JSON."""
    return [
        {"name": one.name, "low": one.low, "high": one.high, "lines": list(one.lines)} for one in advice.suggestions
    ]
