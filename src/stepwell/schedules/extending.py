"""Schedules for the steps that were not planned."""

from __future__ import annotations

from typing import Any

from stepwell.schedules.composition import Warmup
from stepwell.schedules.fields import Length, check_length
from stepwell.schedules.schedule import Schedule, in_steps
from stepwell.schedules.sequence import sequence

WARMUP = 0.01

Chosen = dict[str, dict[Any, Schedule]]
"""For each hyper-parameter the schedules of the groups, by what selects them."""


def extended(
    given: Chosen, resolved: Chosen, *, how: str, done: int, horizon: int, warmup: Length | None
) -> tuple[Chosen, Chosen]:
    """What is given and what is resolved from now on, by one of the ways of `Scheduler.extend`.

    Args:
        given: the schedules as they were given.
        resolved: the same with every length in steps.
        how: "stretch", "hold" or "rewarm".
        done: the present step.
        horizon: the new horizon, more than `done`.
        warmup: of "rewarm": steps to where the schedule begins, or a share of those left, `WARMUP` for None.

    Raises ValueError for another way, for a length that does not fit, for a warm-up of another way than "rewarm", and
    where that has no way up.
    """
    if how not in ("stretch", "hold", "rewarm"):
        raise ValueError(f"how must be 'stretch', 'hold' or 'rewarm', got {how!r}")
    if warmup is not None and how != "rewarm":
        raise ValueError(f"how={how!r} has no warm-up, got warmup={warmup!r}; how='rewarm' has one")
    if how == "stretch":
        given = {name: {key: one.stretched(horizon) for key, one in those.items()} for name, those in given.items()}
        return given, {name: {key: one.resolve(horizon) for key, one in those.items()} for name, those in given.items()}
    if how == "hold":
        return given, resolved
    length = check_length("warmup", WARMUP if warmup is None else warmup)
    return given, {
        name: {key: rewarmed(one, resolved[name][key], max(done, 0), horizon, length) for key, one in those.items()}
        for name, those in given.items()
    }


def rewarmed(schedule: Schedule, so_far: Schedule, done: int, horizon: int, warmup: Length) -> Schedule:
    """As it was up to step `done`; then in a line back up, and down again (Ibrahim et al. 2024, arXiv:2403.08763).

    Args:
        schedule: what is laid over the new steps, without its own warm-up.
        so_far: what the steps that are done were trained under, every length in steps.
        done: the present step, at least 0.
        horizon: the new horizon, more than `done`.
        warmup: steps to where the schedule begins, or a share of those that are left.

    Raises ValueError for a warm-up that leaves no step to the schedule, and for a schedule that begins at 0.
    """
    left = horizon - done
    length = in_steps(warmup, left, schedule, least=1, most=left - 1)
    if length >= left:
        raise ValueError(f"warmup must be less than the {left} steps that are left, got {warmup}")
    rest = schedule.without_warmup().stretched(left - length).resolve(left - length)
    now, begin = so_far(done), rest(0)
    if not begin and (now or length):  # a warm-up multiplies where it goes to: it would train at 0
        raise ValueError(
            f"how='rewarm' goes to where the schedule begins, and {schedule!r} begins at 0: how='stretch' and "
            "how='hold' go on with it; a rise made by warmup=, or by warmup(schedule, length), is left out here"
        )
    again = Warmup(schedule=rest, length=length, start=now / begin if begin else 0.0)
    return sequence(so_far, again, at=[done], cut=True).resolve() if done else again.resolve()
