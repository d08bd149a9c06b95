"""Expected roles and depths, written from the definitions of the models as tables in `tables/`.

A line says depth, role, names, and how a fused matrix splits. `{a,b}` stands for either, `{0..3}` for each of the
numbers; the depth `2+` is 2 for the first of the numbers of the line's first such range, 3 for the next, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from stepwell.roles import ParameterRole

TABLES = Path(__file__).parent / "tables"

Row = tuple[int, str, tuple[int, ...], int]
"""Depth, role, split and the dimension of the split."""


def expected(table: str) -> dict[str, Row]:
    """The rows of a table by the name of the parameter."""
    rows: dict[str, Row] = {}
    for line in (TABLES / f"{table}.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        depth, role, pattern, *split = re.split(r"\s{2,}", line)
        dimension, *sizes = split[0].split() if split else ["rows"]
        for step, name in _names(pattern):
            assert name not in rows, f"{name} stands twice in {table}"
            at = int(depth.removesuffix("+")) + (step if depth.endswith("+") else 0)
            rows[name] = at, role, tuple(int(size) for size in sizes), {"rows": -2, "columns": -1}[dimension]
    return rows


def found(entries: Iterable[ParameterRole]) -> dict[str, Row]:
    """The same of what was read from a model."""
    return {entry.name: (entry.depth, entry.role, entry.split, entry.split_dim) for entry in entries}


def _names(pattern: str) -> Iterator[tuple[int, str]]:
    """The names that a pattern stands for, each with its place in the first range."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield 0, pattern
        return
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    parts = [str(n) for n in range(int(ends[1]), int(ends[2]) + 1)] if ends else match[1].split(",")
    for place, part in enumerate(parts):
        for step, name in _names(pattern[: match.start()] + part + pattern[match.end() :]):
            yield place if ends else step, name
