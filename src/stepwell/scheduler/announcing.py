"""What a scheduler says of a change: the values that come next, those that stood there, and bases that are not its own.

All of it is by hyper-parameter, and by the index of each group that is scheduled.
"""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.scheduler.tracks import entry_called

Readings = Mapping[str, Mapping[int, float]]


def changed(before: Mapping[int, float], after: Mapping[int, float]) -> int | None:
    """The first group in which they differ."""
    return next((index for index, value in after.items() if before.get(index, value) != value), None)


def next_values(before: Readings, after: Readings, groups: int) -> str:
    """The next value and the present one in the first group where they differ, else in the first that is scheduled."""
    shown = {name: changed(before[name], values) or min(values) for name, values in after.items() if values}
    placed = any(shown.values())  # where it is not always the first group, each says which it is
    said = [
        f"next {name}{f' of group {index}' * placed} = {after[name][index]:.4g}, was {before[name][index]:.4g}"
        for name, index in shown.items()
    ]
    return "; ".join(said) + f" (first of {groups} groups)" * (groups > 1 and not placed)


def other_bases(made_with: Readings, bases: Readings) -> str:
    """Of each hyper-parameter the first base that is not the one a scheduler was made with, and what takes the new."""
    said = ""
    for name, loaded in bases.items():
        index = changed(made_with[name], loaded)
        if index is None:
            continue
        ours = made_with[name][index]
        leads = index == next((each for each, base in loaded.items() if base), None)
        way = f"override({name}={ours:g})" if leads else f"setting its {entry_called(name).base_name!r} to {ours:g}"
        place = f" of group {index}" * bool(index)
        said += f"; the loaded base of {name}{place} is {loaded[index]:.4g}: {way} takes the new one"
    return said
