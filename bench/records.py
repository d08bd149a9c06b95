"""What a measurement leaves: one JSON file for each benchmark and machine, which the tables are written from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    bytes_per_parameter: int | None
    timings: dict[str, Timing]
    missing: dict[str, str] = field(default_factory=dict)
    note: str = ""

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


Row = StepRow | MemoryRow | ImportRow | StartRow | ScheduleRow
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (StepRow, MemoryRow, ImportRow, StartRow, ScheduleRow)}


@dataclass(frozen=True)
class Report:
    """One run of one benchmark.

    Args:
        what: "step", "memory", "start" or "schedule".
        machine: where it ran.
        settings: how it ran: rounds, packages and their versions.
        rows: what was measured.
    """

    what: str
    machine: Machine
    settings: dict[str, str]
    rows: Sequence[Row]

    def save(self, folder: Path) -> Path:
        """Write `<what>-<machine>.json`, and give its path."""
        rows = [{"kind": type(row).__name__, **asdict(row)} for row in self.rows]
        content = {"what": self.what, "machine": asdict(self.machine), "settings": self.settings, "rows": rows}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.what}-{self.machine.slug}.json"
        path.write_text(json.dumps(content, indent=1, default=float, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


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
        fields["timings"] = {
            name: Timing(timing["first"], tuple(timing["rounds"])) for name, timing in fields["timings"].items()
        }
    row: Row = kind(**fields)
    return row
