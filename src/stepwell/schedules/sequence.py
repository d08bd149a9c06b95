"""Schedules one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

from stepwell.algebra import where
from stepwell.schedules import fields
from stepwell.schedules.fields import Length, check_horizon, check_length
from stepwell.schedules.schedule import Schedule, in_steps, outlasting
from stepwell.text.values import shown


@dataclass(frozen=True, kw_only=True, repr=False)
class Sequence(Schedule):
    """Schedules one after the other; made by `sequence`."""

    pieces: tuple[Schedule, ...]
    at: tuple[Length, ...]
    horizon: int | None = fields.horizon()
    cut: bool = fields.flag()

    def __post_init__(self) -> None:
        at = tuple(check_length(f"at[{index}]", start, least=1) for index, start in enumerate(self.at))
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "pieces", tuple(self.pieces))
        super().__post_init__()
        if len(self.pieces) < 2:
            raise ValueError(f"a sequence needs at least 2 schedules, got {len(self.pieces)}")
        for index, piece in enumerate(self.pieces):
            if not isinstance(piece, Schedule):
                raise TypeError(f"schedule {index} of a sequence must be a Schedule, got {shown(piece)}")
        if len(self.at) != len(self.pieces) - 1:
            raise ValueError(
                f"at says where each schedule after the first starts: {len(self.pieces)} schedules need "
                f"{len(self.pieces) - 1}, got {len(self.at)}"
            )
        if self.horizon is not None or all(isinstance(start, int) for start in self.at):
            self._starts(self.horizon)

    def resolve(self, horizon: int | None = None) -> Self:
        slot = check_horizon("horizon", horizon)
        horizon = self.horizon or slot
        starts = self._starts(horizon)
        ends = (*starts[1:], horizon)
        pieces = tuple(
            self._resolve_piece(index, None if end is None else max(end - start, 1))
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        )
        # All lengths are steps now: the horizon decides nothing any more, and the resolved schedule does not name it.
        return type(self)(pieces=pieces, at=starts[1:], cut=self.cut, horizon=outlasting(self.horizon, slot))

    def stretched(self, horizon: int | None) -> Self:
        return replace(self, pieces=(*self.pieces[:-1], self.pieces[-1].stretched(None)), horizon=horizon)

    def without_warmup(self) -> Schedule:
        return replace(self, pieces=(self.pieces[0].without_warmup(), *self.pieces[1:]))

    def factor(self, step: Any) -> Any:
        if isinstance(step, int):  # one step needs one piece only
            index = bisect_right(self.at, step)
            return self.pieces[index](step - self.at[index - 1] if index else step)
        value = self.pieces[0](step)
        for start, piece in zip(self.at, self.pieces[1:], strict=True):
            value = where(step < start, value, piece(step - start))
        return value

    def _starts(self, horizon: int | None) -> tuple[int, ...]:
        """The step at which each schedule starts."""
        # A share never rounds up to the horizon; of a trial of one step, all is the first schedule's.
        latest = None if horizon is None else max(horizon - 1, 1)
        starts = (0, *(in_steps(start, horizon, self, least=1, most=latest) for start in self.at))
        if any(after <= before for before, after in pairwise(starts)):
            steps = ", ".join(map(str, starts[1:]))
            raise ValueError(f"at must ascend from at least step 1, got {list(self.at)}, which is at {steps}")
        if latest is not None and starts[-1] > latest:
            raise ValueError(f"at must be less than the horizon of {horizon} steps, got {list(self.at)}")
        return starts

    def _resolve_piece(self, index: int, length: int | None) -> Schedule:
        last = index == len(self.pieces) - 1
        try:
            return self.pieces[index].resolve(None if self.cut and not last else length)
        except ValueError as error:
            raise ValueError(f"schedule {index} of {self!r}: {error}") from None

    def __repr__(self) -> str:
        horizon = "" if self.horizon is None else f", horizon={self.horizon}"
        cut = ", cut=True" * self.cut
        return f"sequence({', '.join(map(repr, self.pieces))}, at={list(self.at)}{horizon}{cut})"


def sequence(*schedules: Schedule, at: Iterable[Length], horizon: int | None = None, cut: bool = False) -> Sequence:
    """Schedules one after the other: `sequence(Constant(warmup=500), Linear(), at=[0.8])` decays over the last fifth.

    Each schedule sees the steps since its own start, and one without a horizon of its own has the steps until the next
    one starts (the last: until the horizon) as its horizon. The last holds its end.

    Args:
        schedules: at least two.
        at: where each schedule after the first starts: steps (int) or shares of the horizon (float strictly between
            0 and 1) from the start of the whole, in ascending order, before the horizon.
        horizon: total optimizer steps of the whole, at least 1; may be left to the scheduler.
        cut: each schedule but the last has a length of its own, and is cut off where the next one starts.
    """
    if isinstance(at, (int, float, str)):
        raise TypeError(f"at must be a list of steps or shares, one for each schedule after the first, got {shown(at)}")
    return Sequence(pieces=schedules, at=tuple(at), horizon=horizon, cut=cut)
