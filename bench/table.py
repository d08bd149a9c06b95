"""`python -m bench table`: docs/benchmarks.md, written from the JSON in bench/results/."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from bench import markdown
from bench.contenders import OURS
from bench.equal_pass import PASS
from bench.machine import Machine
from bench.records import (
    RESULTS,
    CheckpointRow,
    ImportRow,
    MemoryRow,
    PlanRow,
    RanksRow,
    Report,
    Row,
    ScheduleRow,
    StartRow,
    StepRow,
    StorageRow,
    load_all,
)

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

_HEAD = """# Benchmarks

Written by `python -m bench table` from the JSON in `bench/results/`, which `python -m bench step`, `memory`, `start`,
`schedule`, `plan`, `checkpoint`, `storage` and `ranks` leave. Times drift from machine to machine and from day to day;
the ratios are what to read.
"""

_STEP = """\
Time of one optimizer step. The contenders step in turn in one process, round after round, on the same weights and
gradients, each with a state of its own; a figure is the median over the rounds, after warm-up. *GB/s* counts the
bytes that the rule's fused form loads and stores. *Of an equal pass* is our share of the bandwidth that a fused pass
with the same loads and stores, and next to no arithmetic, reaches in turn with the others. *Ratio* is our time over
that of the best peer.
"""

_MEMORY = """\
What one step needs above parameters, gradients and state, at its peak: *allocated* by torch, Python and NumPy;
*resident* is how far the process grows, which also sees what native code takes, to within some hundred KiB.
"""

_START = """\
Seconds in fresh processes, medians. The kernel cache is empty at first; later processes find it filled, and do not
import Numba.
"""

_SCHEDULE = """\
Time of one call, for a step in the middle of a million. Contenders are called in turn in one process, many times at a
turn; a figure is the median over the rounds. *Ratio* is our time over that of the best peer.
"""

_PLAN = """\
Time to plan a model that has no data, in fresh processes, medians: to make it on the meta device, to lay the recipe
over it (`stepwell.plan`), to count its memory on 64 ranks beside other recipes (`plan.memory`), and what a step
costs (`plan.cost`). *Resident* is how far the process grows beyond torch, the model's own modules included.
"""

_CHECKPOINT = """\
Weights and AdamW's state in float32, saved until the disk has them and loaded from the system's file cache, in turn
with `torch.save` of the same followed by fsync, and `torch.load`. *Above the state* is how far the process grows during
a load beyond the optimizer's state that it makes; the weights are there before.
"""

_STORAGE = """\
The default task of `stepwell compare`, trained with its state in fewer bits. Losses are those of the validation after
the last step, one for each seed; all storages train from the same weights on the same batches. Embeddings keep float32.
"""

_RANKS = """\
Time of one step of a rule of matrices on several ranks, in turn with the same step of one rank, which then has all of
the work. Every rank is a process with one thread on the same machine, and they talk over gloo; a figure is the median
over the rounds, of a rule that does more in some steps the mean of a cycle's. *FSDP2* has each matrix in parts.
*shard_state* has it whole on every rank and its state in parts.
"""

_COLUMNS: dict[type[Row], tuple[str, ...]] = {
    StepRow: ("rule", "stepwell", "GB/s", "of an equal pass", "best peer", "ratio", "other peers"),
    MemoryRow: ("rule", "contender", "allocated", "resident"),
    ImportRow: ("`import torch`", "`import stepwell` after it", "`import numba` after both"),
    StartRow: ("rule", "kernel cache", "construct", "first step", "second step", "imports Numba"),
    ScheduleRow: ("schedule", "stepwell", "best peer", "ratio", "other peers"),
    StorageRow: ("rule", "state in", "bytes of state", "last losses", "mean", "over float32's"),
    PlanRow: ("recipe", "make the model", "plan", "memory", "cost", "all three", "resident"),
    CheckpointRow: ("what", "bytes", "stepwell", "torch", "ratio", "above the state", "torch's"),
    RanksRow: ("rule", "matrices", "ranks", "one rank", "together", "ratio"),
}


def write(page: Path = PAGE, results: Path = RESULTS) -> Path:
    """Write the page from the results."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text(load_all(results)), encoding="utf-8")
    return page


def text(reports: Sequence[Report]) -> str:
    """The page as Markdown: a chapter for each machine."""
    parts = [_HEAD]
    if not reports:
        parts.append("There are no results yet.\n")
    by_machine = sorted(reports, key=lambda report: report.machine.slug)
    for _, group in itertools.groupby(by_machine, key=lambda report: report.machine.slug):
        chapter = list(group)
        parts.append(f"## {chapter[0].machine.title}\n")
        for report in chapter:
            parts += section(report)
    return "\n".join(parts)


def section(report: Report) -> list[str]:
    """One benchmark on one machine, in paragraphs."""
    title, about = {
        "step": ("Step time", _STEP),
        "memory": ("Memory", _MEMORY),
        "start": ("Start", _START),
        "schedule": ("Schedules", _SCHEDULE),
        "storage": ("State in fewer bits", _STORAGE),
        "plan": ("Plans", _PLAN),
        "checkpoint": ("Checkpoints", _CHECKPOINT),
        "ranks": ("Many ranks", _RANKS),
    }[report.what]
    parts = [f"### {title}\n", _software(report.machine) + _settings(report) + "\n", about]
    for heading, rows in itertools.groupby(report.rows, key=heading_of):
        found = list(rows)
        parts.append(f"#### {heading}\n")
        parts.append("\n".join([*header(found[0]), *map(line, found)]) + "\n")
        parts += _remarks(found)
    return parts


def heading_of(row: Row) -> str:
    """What a row was measured on."""
    if isinstance(row, StepRow):
        count = f"{row.tensors} tensors, " if row.tensors > 1 else ""
        return f"{_capital(row.shapes)}: {count}{_millions(row.parameters)} parameters"
    if isinstance(row, MemoryRow | CheckpointRow | RanksRow):
        return f"{_capital(row.shapes)}: {_millions(row.parameters)} parameters"
    if isinstance(row, ScheduleRow):
        return row.what
    if isinstance(row, StorageRow):
        return f"{_capital(row.task)}: {row.steps} steps"
    if isinstance(row, PlanRow):
        return f"{row.model}: {row.tensors} tensors, {row.parameters / 1e9:.1f} G parameters"
    return "Imports" if isinstance(row, ImportRow) else _capital(row.shapes)


def header(row: Row) -> list[str]:
    """The first two lines of the table for rows of this kind."""
    columns = _COLUMNS[type(row)]
    return markdown.header(columns)


def line(row: Row) -> str:
    """A row as a line of its table."""
    if isinstance(row, MemoryRow):
        resident = "—" if row.resident is None else size(row.resident)
        return markdown.line((row.rule, row.contender, size(row.allocated), resident))
    if isinstance(row, StorageRow):
        mean, losses = sum(row.losses) / len(row.losses), ", ".join(f"{loss:.4f}" for loss in row.losses)
        cells = (row.rule, row.storage, f"{row.state_bytes:,}", losses, f"{mean:.4f}", f"**{row.ratio - 1:+.2%}**")
        return markdown.line(cells)
    if isinstance(row, ImportRow):
        return markdown.line(map(_seconds, (row.torch, row.stepwell, row.numba)))
    if isinstance(row, StartRow):
        times = map(_seconds, (row.construct, row.first_step, row.second_step))
        return markdown.line((row.rule, row.cache, *times, "yes" if row.needs_numba else "no"))
    if isinstance(row, CheckpointRow):
        return _checkpoint_line(row)
    if isinstance(row, RanksRow):
        alone, together = milliseconds(row.alone.median), f"**{milliseconds(row.together.median)}**"
        return markdown.line((row.rule, row.way, str(row.ranks), alone, together, f"**{row.ratio:.2f}**"))
    if isinstance(row, PlanRow):
        times = map(_seconds, (row.build, row.plan, row.memory, row.cost))
        total = f"**{_seconds(row.plan + row.memory + row.cost)}**"
        return markdown.line((f"`{row.recipe}`", *times, total, "—" if row.resident is None else size(row.resident)))
    return _schedule_line(row) if isinstance(row, ScheduleRow) else _step_line(row)


def _checkpoint_line(row: CheckpointRow) -> str:
    ours, theirs = (
        next(timing for name, timing in row.timings.items() if (name == OURS) == is_ours) for is_ours in (True, False)
    )
    above = {name == OURS: "—" if grown is None else size(grown) for name, grown in row.above.items()}
    cells = (
        *(row.what, size(row.size), f"**{milliseconds(ours.median)}**", milliseconds(theirs.median)),
        *(f"**{row.ratio:.2f}**", above.get(True, "—"), above.get(False, "—")),
    )
    return markdown.line(cells)


def _schedule_line(row: ScheduleRow) -> str:
    peers = [f"{name} {microseconds(row.timings[name].median)}" for name in row.peers]
    cells = (
        f"`{row.subject}`" if "(" in row.subject else row.subject,
        f"**{microseconds(row.timings[OURS].median)}**",
        peers[0] if peers else "—",
        "—" if row.ratio is None else f"**{row.ratio:.2f}**",
        ", ".join(peers[1:]) or "—",
    )
    return markdown.line(cells)


def _step_line(row: StepRow) -> str:
    speed, ratio = row.gigabytes_per_second(OURS), row.ratio
    peers = [f"{name} {milliseconds(row.timings[name].median)}" for name in row.peers]
    cells = (
        row.rule,
        f"**{milliseconds(row.timings[OURS].median)}**",
        "—" if speed is None else f"{speed:.1f}",
        "—" if row.share is None else f"{row.share:.0%} of {row.gigabytes_per_second(PASS):.1f} GB/s",
        peers[0] if peers else "—",
        "—" if ratio is None else f"**{ratio:.2f}**",
        ", ".join(peers[1:]) or "—",
    )
    return markdown.line(cells)


def milliseconds(number: float) -> str:
    """Three digits, and the unit."""
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f} ms"


def microseconds(number: float) -> str:
    """Milliseconds, written in microseconds."""
    return f"{1e3 * number:.2f} µs"


def size(number: int) -> str:
    """Bytes in the largest unit that leaves at least 1."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= factor:
            return f"{number / factor:.{0 if number >= 100 * factor else 1}f} {unit}"
    return f"{number} B"


def _remarks(rows: Sequence[Row]) -> list[str]:
    """Notes, and who did not take part, as a list under the table."""
    steps = [row for row in rows if isinstance(row, StepRow)]
    found = [f"- {row.rule}: {row.note}." for row in steps if row.note]
    for row in steps:
        if row.host:
            waits = ", ".join(f"{name} {microseconds(time)}" for name, time in row.host.items())
            found.append(f"- {row.rule}, until the host goes on: {waits}.")
    timed = [row for row in rows if isinstance(row, StepRow | ScheduleRow)]
    absent = dict.fromkeys(f"{name} ({reason})" for row in timed for name, reason in row.missing.items())
    if absent:
        found.append(f"- Not measured: {', '.join(absent)}.")
    return ["\n".join(found) + "\n"] if found else []


def _seconds(number: float) -> str:
    return f"{number:.3f} s"


def _software(machine: Machine) -> str:
    triton = f", Triton {machine.triton}" if machine.triton else ""
    return (
        f"stepwell {machine.stepwell}, torch {machine.torch}, Numba {machine.numba}, Python {machine.python}, "
        f"{machine.system}, {machine.threads} threads{triton}, {machine.date}."
    )


def _settings(report: Report) -> str:
    described = [f"{name}: {value}" for name, value in report.settings.items()]
    return f" {_capital('; '.join(described))}." if described else ""


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
