"""Schedules one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from stepwell.algebra import where
from stepwell.schedules.schedule import Length, Schedule, check_horizon, check_length, in_steps


@dataclass(frozen=True, kw_only=True, repr=False)
class Sequence(Schedule):
    """Schedules one after the other; made by `sequence`."""

    pieces: tuple[Schedule, ...]
    at: tuple[Length, ...]
    horizon: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(check_length(f"at[{i}]", start, least=1) for i, start in enumerate(self.at)))
        object.__setattr__(self, "horizon", check_horizon(self.horizon))
        if len(self.pieces) < 2:
            raise ValueError(f"a sequence needs at least 2 schedules, got {len(self.pieces)}")
        for index, piece in enumerate(self.pieces):
            if not isinstance(piece, Schedule):
                raise TypeError(f"piece {index} of a sequence must be a schedule, got {piece!r}")
        if len(self.at) != len(self.pieces) - 1:
            raise ValueError(
                f"at says where each schedule after the first starts: {len(self.pieces)} schedules need "
                f"{len(self.pieces) - 1}, got {len(self.at)}"
            )
        self._check_order(self.at, self.horizon)

    def resolve(self, horizon: int | None = None) -> Self:
        horizon = self.horizon or check_horizon(horizon)
        at = tuple(in_steps(start, horizon, self) for start in self.at)
        self._check_order(at, horizon)
        starts = (0, *at)
        ends = (*at, horizon)
        pieces = tuple(
            self._resolve_piece(index, None if end is None else end - start)
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        )
        # All lengths are steps now: the horizon decides nothing any more, and the resolved schedule does not name it.
        return type(self)(pieces=pieces, at=at)

    def _resolve_piece(self, index: int, length: int | None) -> Schedule:
        try:
            return self.pieces[index].resolve(length)
        except ValueError as error:
            raise ValueError(f"piece {index} of {self!r}: {error}") from None

    def _check_order(self, at: tuple[Length, ...], horizon: int | None) -> None:
        for index, (before, start) in enumerate(pairwise((0, *at))):
            comparable = isinstance(before, float) == isinstance(start, float) or before == 0
            if comparable and start <= before:
                raise ValueError(
                    f"at[{index}] must be after the start of the schedule before it, step or share {before}, got {start}"
                )
            if horizon is not None and start >= horizon:
                raise ValueError(f"at[{index}] must be less than the horizon of {horizon} steps, got {start}")

    def factor(self, step: Any) -> Any:
        value = self.pieces[0](step)
        for start, piece in zip(self.at, self.pieces[1:], strict=True):
            value = where(step < start, value, piece(step - start))
        return value

    def __repr__(self) -> str:
        horizon = "" if self.horizon is None else f", horizon={self.horizon}"
        return f"sequence({', '.join(map(repr, self.pieces))}, at={list(self.at)}{horizon})"


def sequence(*schedules: Schedule, at: Iterable[Length], horizon: int | None = None) -> Sequence:
    """Schedules one after the other: `sequence(Constant(warmup=500), Linear(), at=[0.8])` decays over the last fifth.

    Each schedule sees the steps since its own start, and one without a horizon of its own has the steps until the next
    one starts (the last: until the horizon) as its horizon. The last holds its end.

    Args:
        schedules: at least two.
        at: where each schedule after the first starts: steps (int) or shares of the horizon (float strictly between
            0 and 1) from the start of the whole, in ascending order, before the horizon.
        horizon: total optimizer steps of the whole, at least 1; may be left to the scheduler.
    """
    if isinstance(at, (int, float, str)):
        raise TypeError(f"at must be a list of steps or shares, one for each schedule after the first, got {at!r}")
    return Sequence(pieces=schedules, at=tuple(at), horizon=horizon)
