"""How far a step has moved the weights, and which units learn: plain numbers, read when somebody asks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stepwell.engines.observing import OBSERVED
from stepwell.layout import Layout, sum_over_ranks
from stepwell.optimizer.bucket import Bucket

By = Literal["group", "parameter"]

# A unit is counted by the power of two of its gradient over the median unit's, between these; what is beyond is
# counted at the ends.
SMALLEST, LARGEST = -8, 8
# Beyond this power of two a unit explodes.
_EXPLODES = 6


def squares_by_parameter(buckets: Iterable[Bucket]) -> dict[int, list[float]]:
    """Σ x² of each of `OBSERVED` at the last update, by the parameter's id, over all ranks that hold a part of it."""
    parameters: list[Tensor] = []
    rows: list[Tensor] = []
    groups: list[tuple[Any, ...]] = []
    for bucket in buckets:
        squares = bucket.engine.squares(bucket.batch)
        if squares is not None:
            parameters += bucket.parameters
            layouts = bucket.batch.layouts
            rows += list(squares if layouts else squares.cpu())
            groups += [layout.groups for layout in layouts] or [()] * len(bucket.parameters)
    sums = sum_over_ranks(rows, groups)
    return {id(p): row.tolist() for p, row in zip(parameters, sums, strict=True)}


def readings(groups: Sequence[Mapping[str, Any]], buckets: Iterable[Bucket], by: By) -> dict[str, dict[str, float]]:
    """What `Optimizer.telemetry` gives."""
    squares = squares_by_parameter(buckets)
    sums: dict[str, list[float]] = {}
    for group, name, parameter in _named(groups):
        if id(parameter) in squares:
            reals = parameter.numel() * (2 if parameter.is_complex() else 1)
            known = sums.setdefault(name if by == "parameter" else group, [0.0] * (1 + len(OBSERVED)))
            for place, value in enumerate((reals, *squares[id(parameter)])):
                known[place] += value
    return {name: _reading(int(count), totals) for name, (count, *totals) in sums.items()}


def _named(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Tensor]]:
    """Each parameter, after the name of its group and its own."""
    for index, group in enumerate(groups):
        called = str(group.get("name") or index)
        names = group.get("param_names") or [f"{called}/{position}" for position in range(len(group["params"]))]
        yield from ((called, name, p) for name, p in zip(names, group["params"], strict=True))


def _reading(count: int, totals: Sequence[float]) -> dict[str, float]:
    found = {f"{what}_rms": math.sqrt(total / max(count, 1)) for what, total in zip(OBSERVED, totals, strict=True)}
    update, weight = found["update_rms"], found["weight_rms"]
    found["update_to_weight"] = update / weight if weight else math.inf if update else 0.0
    return found


@dataclass(frozen=True)
class Units:
    """The units (rows) of one matrix by the size of their gradients.

    Attributes:
        dead: how many have a gradient of zero.
        exploding: how many have one of more than 64 times the median unit's, or one that is not finite.
        counts: how many of the others have a gradient of 2⁻⁸, 2⁻⁷, … 2⁸ times the median unit's, rounded to the
            nearest of these powers.
    """

    dead: int
    exploding: int
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many units there are."""
        return self.dead + self.exploding + sum(self.counts)


def units_of(groups: Sequence[Mapping[str, Any]], buckets: Iterable[Bucket]) -> dict[str, Units]:
    """What `Optimizer.units` gives."""
    squares: dict[int, tuple[Tensor, Layout | None]] = {}
    for bucket in buckets:
        layouts: Sequence[Layout | None] = bucket.batch.layouts or [None] * len(bucket.parameters)
        found = bucket.engine.unit_squares(bucket.batch)
        for parameter, layout, of_units in zip(bucket.parameters, layouts, found, strict=True):
            if of_units is not None and parameter.ndim > 1:
                squares[id(parameter)] = of_units, layout
    # In the order of the parameters, which is the same on all ranks.
    return {name: _units(*squares[id(p)]) for _, name, p in _named(groups) if id(p) in squares}


def _units(squares: Tensor, layout: Layout | None) -> Units:
    whole = squares if layout is None else layout.sums_of_units(squares)
    norms = whole.double().sqrt().cpu()
    alive = norms[norms != 0]  # also what is not finite
    finite = alive[alive.isfinite()]
    powers = torch.log2(finite / finite.median()) if len(finite) else finite
    calm = powers[powers <= _EXPLODES].round().clamp(SMALLEST, LARGEST).int() - SMALLEST
    counts = torch.bincount(calm, minlength=LARGEST - SMALLEST + 1).tolist()
    return Units(len(norms) - len(alive), len(alive) - len(calm), tuple(counts))
