"""What a measurement leaves: one JSON file for each benchmark and machine, which the tables are written from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from bench.contenders import OURS
from bench.equal_pass import PASS
from bench.machine import Machine
from bench.turns import Timing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class StepRow:
    """Step times of all contenders for one rule on one list of tensors."""

    rule: str
    shapes: str
    tensors: int
    parameters: int
    bytes_per_parameter: float | None
    timings: dict[str, Timing]
    missing: dict[str, str] = field(default_factory=dict)
    note: str = ""
    host: dict[str, float] = field(default_factory=dict)  # milliseconds until the host goes on, on a GPU

    @property
    def peers(self) -> list[str]:
        """The peers that took part, the fastest first."""
        others = [name for name in self.timings if name not in (OURS, PASS)]
        return sorted(others, key=lambda name: self.timings[name].median)

    @property
    def ratio(self) -> float | None:
        """Our time over the best peer's."""
        return self.timings[OURS].median / self.timings[self.peers[0]].median if self.peers else None

    @property
    def share(self) -> float | None:
        """Our share of the bandwidth that an equal pass reaches."""
        return self.timings[PASS].median / self.timings[OURS].median if PASS in self.timings else None

    def gigabytes_per_second(self, name: str) -> float | None:
        """Bytes that the rule cannot do without, over the time."""
        if self.bytes_per_parameter is None:
            return None
        return self.bytes_per_parameter * self.parameters / self.timings[name].median / 1e6


@dataclass(frozen=True)
class MemoryRow:
    """Bytes above parameters, gradients and state at the peak of one step; None where it cannot be seen."""

    rule: str
    shapes: str
    parameters: int
    contender: str
    allocated: int
    resident: int | None


@dataclass(frozen=True)
class ImportRow:
    """Seconds to import one after the other, in fresh processes. stepwell imports Numba only to compile."""

    torch: float
    stepwell: float
    numba: float


@dataclass(frozen=True)
class StartRow:
    """Seconds in a new process, imports aside. The first step imports Numba where it has to compile."""

    rule: str
    shapes: str
    cache: str
    construct: float
    first_step: float
    second_step: float
    needs_numba: bool


@dataclass(frozen=True)
class ScheduleRow:
    """Times of one call of a schedule, or of one step of schedulers of the same schedule."""

    what: str
    subject: str
    timings: dict[str, Timing]
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """The peers that took part, the fastest first."""
        return sorted((name for name in self.timings if name != OURS), key=lambda name: self.timings[name].median)

    @property
    def ratio(self) -> float | None:
        """Our time over the best peer's."""
        return self.timings[OURS].median / self.timings[self.peers[0]].median if self.peers else None


@dataclass(frozen=True)
class CheckpointRow:
    """Times of a save or a load, and for a load the bytes that the process grows by above the state that is loaded."""

    what: str
    shapes: str
    parameters: int
    size: int
    timings: dict[str, Timing]
    above: dict[str, int | None]

    @property
    def ratio(self) -> float:
        """Our time over the peer's."""
        (peer,) = (timing for name, timing in self.timings.items() if name != OURS)
        return self.timings[OURS].median / peer.median


@dataclass(frozen=True)
class PlanRow:
    """Seconds to plan a model without data, in a new process, and bytes by which that grows at most beside torch."""

    recipe: str
    model: str
    tensors: int
    parameters: int
    build: float
    plan: float
    memory: float
    cost: float
    resident: int | None


@dataclass(frozen=True)
class StorageRow:
    """Last validation losses of one training from several seeds, with the state in this storage and in float32."""

    rule: str
    task: str
    storage: str
    steps: int
    losses: tuple[float, ...]
    in_float32: tuple[float, ...]
    state_bytes: int

    @property
    def ratio(self) -> float:
        """The mean loss over that in float32."""
        return sum(self.losses) / sum(self.in_float32)


@dataclass(frozen=True)
class RanksRow:
    """Times of a step of one rank alone, and of the same step of several ranks together."""

    rule: str
    shapes: str
    parameters: int
    way: str
    ranks: int
    alone: Timing
    together: Timing

    @property
    def ratio(self) -> float:
        """The time together over the time alone."""
        return self.together.median / self.alone.median


Row = StepRow | MemoryRow | ImportRow | StartRow | ScheduleRow | PlanRow | CheckpointRow | StorageRow | RanksRow
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Row)}


@dataclass(frozen=True)
class Report:
    """One run of one benchmark.

    Args:
        what: "step", "memory", "start", "schedule", "plan", "checkpoint", "storage" or "ranks".
        machine: where it ran.
        settings: how it ran: rounds, packages and their versions.
        rows: what was measured.
    """

    what: str
    machine: Machine
    settings: dict[str, str]
    rows: Sequence[Row]

    def path(self, folder: Path) -> Path:
        """The file in this folder that is for the benchmark and the machine."""
        return folder / f"{self.what}-{self.machine.slug}.json"

    def save(self, folder: Path) -> Path:
        """Write `<what>-<machine>.json`, and give its path."""
        rows = [{"kind": type(row).__name__, **asdict(row)} for row in self.rows]
        content = {"what": self.what, "machine": asdict(self.machine), "settings": self.settings, "rows": rows}
        folder.mkdir(parents=True, exist_ok=True)
        path = self.path(folder)
        path.write_text(json.dumps(content, indent=1, default=float, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def check_same(report: Report, machine: Machine) -> None:
    """Raise ValueError where a report is of another machine or other software, its date aside."""
    for name, before in asdict(report.machine).items():
        after = getattr(machine, name)
        if name != "date" and before != after:
            raise ValueError(f"the saved results of {report.what} are of {name} {before}, this is {after}")


def merged(old: Report, new: Report) -> Report:
    """The old report with the rows of the new one: in place of those on the same subject, or after their like.

    The date becomes the span of both, and so do the settings.

    Raises:
        ValueError: where the machine or the software has changed, so that figures of both cannot stand in one table.
    """
    check_same(old, new.machine)
    fresh: dict[tuple[str, ...], list[Row]] = {}
    for row in new.rows:
        fresh.setdefault(_subject(row), []).append(row)
    measured = set(fresh)
    rows: list[Row] = []
    for row in old.rows:
        subject = _subject(row)
        if subject not in measured:
            rows.append(row)
        rows += fresh.pop(subject, [])
    rows += [row for group in fresh.values() for row in group]
    places = list(dict.fromkeys(map(_place, rows)))
    rows.sort(key=lambda row: places.index(_place(row)))
    dates = [date for report in (old, new) for date in report.machine.date.split(" to ")]
    machine = replace(new.machine, date=_span(dates))
    settings = {
        name: _joined_setting(name, [given for report in (old, new) if (given := report.settings.get(name))])
        for name in {**old.settings, **new.settings}
    }
    return Report(old.what, machine, settings, rows)


def _joined_setting(name: str, given: Sequence[str]) -> str:
    """Packages as one list; rounds or processes as a span."""
    if name == "peers":
        return ", ".join(sorted({peer for text in given for peer in text.split(", ")}))
    return _span([part for text in given for part in text.split(" to ")], key=int)


def _span(values: Sequence[str], key: Callable[[str], Any] = str) -> str:
    """The least and the greatest, or the one that there is."""
    first, last = min(values, key=key), max(values, key=key)
    return first if first == last else f"{first} to {last}"


def _place(row: Row) -> str:
    """The table in which a row stands."""
    if isinstance(row, ImportRow):
        return ""
    if isinstance(row, StorageRow):
        return row.task
    if isinstance(row, PlanRow):
        return row.model
    return row.what if isinstance(row, ScheduleRow) else row.shapes


def _subject(row: Row) -> tuple[str, ...]:
    """What a row is about: rows on the same subject are measured together."""
    if isinstance(row, CheckpointRow):
        about = row.what
    elif isinstance(row, ImportRow):
        about = ""
    elif isinstance(row, PlanRow):
        about = row.recipe
    elif isinstance(row, StorageRow):
        about = f"{row.rule} {row.storage}"
    elif isinstance(row, RanksRow):
        about = f"{row.rule} {row.way} {row.ranks}"
    else:
        about = row.subject if isinstance(row, ScheduleRow) else row.rule
    return type(row).__name__, _place(row), about


def load(path: Path) -> Report:
    """The report in a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [_row(dict(row)) for row in content["rows"]]
    return Report(content["what"], Machine(**content["machine"]), content["settings"], rows)


def load_all(folder: Path = RESULTS) -> list[Report]:
    """The reports in a folder, by file name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def _row(fields: dict[str, Any]) -> Row:
    kind = _KINDS[fields.pop("kind")]
    if "timings" in fields:
        fields["timings"] = {name: _timing(timing) for name, timing in fields["timings"].items()}
    if kind is StorageRow:
        fields |= {name: tuple(fields[name]) for name in ("losses", "in_float32")}
    if kind is RanksRow:
        fields |= {name: _timing(fields[name]) for name in ("alone", "together")}
    row: Row = kind(**fields)
    return row


def _timing(fields: dict[str, Any]) -> Timing:
    return Timing(fields["first"], tuple(fields["rounds"]))
