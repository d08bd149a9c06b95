"""`python -m bench start`: imports, and the first step with an empty and with a filled kernel cache."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from bench.processes import fresh
from bench.records import ImportRow, StartRow
from bench.shapes import HIDDEN, SMALL, Shapes
from bench.subjects import Subject

# Rules of every shape of program: one phase, several, another dtype, matrices.
USUAL = ("adamw", "sgd", "lion", "lamb", "schedule-free", "adamw-bf16", "adafactor", "muon")


def shapes_for(subject: Subject) -> Shapes:
    """Few numbers, so that the step itself takes no time beside what comes before it."""
    return HIDDEN[-1] if subject.rule.acts_on == "matrices" else SMALL


def measure_imports(repeats: int) -> ImportRow:
    """Medians over fresh processes, after one that fills the system's file cache."""
    runs = [_fresh() for _ in range(repeats + 1)][1:]
    return ImportRow(**{name: statistics.median(run[name] for run in runs) for name in runs[0]})


def measure(subjects: Sequence[Subject], repeats: int) -> Iterator[ImportRow | StartRow]:
    """The imports; then for each rule a row with an empty cache, and one with the cache that this leaves."""
    yield measure_imports(repeats)
    for subject in subjects:
        cold: list[dict[str, Any]] = []
        warm: list[dict[str, Any]] = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(prefix="stepwell-bench-") as cache:
                cold.append(_fresh(subject.name, cache))
                warm.append(_fresh(subject.name, cache))
        for state, runs in (("empty", cold), ("filled", warm)):
            times = {
                name: statistics.median(run[name] for run in runs)
                for name in ("construct", "first_step", "second_step")
            }
            needs_numba = any(run["needs_numba"] for run in runs)
            yield StartRow(subject.title, shapes_for(subject).title, state, needs_numba=needs_numba, **times)


def _fresh(*arguments: str) -> dict[str, Any]:
    """What `bench.first_step` finds in a new process; the second argument is the cache folder."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    if len(arguments) > 1:
        environment["STEPWELL_CACHE_DIR"] = arguments[1]
    return fresh("bench.first_step", *arguments[:1], environment=environment)
