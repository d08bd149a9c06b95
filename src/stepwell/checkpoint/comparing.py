"""How two checkpoints differ, told from their manifests and headers: numbers are compared by their checksums."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stepwell.checkpoint import folder, manifest
from stepwell.checkpoint.differences import Difference, Differences, compare_groups, in_words
from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.grouping import rule_of
from stepwell.checkpoint.manifest import Manifest
from stepwell.checkpoint.plain import readable
from stepwell.checkpoint.saving import MODEL, OPTIMIZER
from stepwell.checkpoint.tensorfile import Entry, TensorFile
from stepwell.optimizer.groups import NOTES

_SHOWN = 3
# What of a group is no hyper-parameter, but which weights it holds is worth telling.
_NOTES = frozenset(("params", "rule", "fingerprint", *NOTES)) - {"holds"}


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Differences:
    """How checkpoint `b` differs from checkpoint `a`: weights, state, groups, schedules and extra.

    "missing" is in `a` alone and "unexpected" in `b` alone; `here` is what `a` has and `there` what `b` has. Numbers
    are compared by their checksums, so that nothing the size of the model is read.

    Args:
        a, b: folders of checkpoints, of which the newest are compared, or checkpoints.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    first, second = folder.find(Path(a)), folder.find(Path(b))
    ours, theirs = manifest.read(first), manifest.read(second)
    found: list[Difference] = []
    try:
        for name, file, what in (("model", MODEL, "weight"), ("optimizer", OPTIMIZER, "state")):
            sides = getattr(ours, name), getattr(theirs, name)
            found += _sections(f"the {name}", *sides)
            if None not in sides:
                found += _tensors(what, (first, ours), (second, theirs), file)
        if ours.optimizer is not None and theirs.optimizer is not None:
            found += _groups(ours.optimizer, theirs.optimizer)
        found += _sections("the scheduler", ours.scheduler, theirs.scheduler)
        if ours.scheduler is not None and theirs.scheduler is not None:
            found += _values("scheduler", {"class": ours.scheduler["class"], **ours.scheduler["state"]},
                             {"class": theirs.scheduler["class"], **theirs.scheduler["state"]})  # fmt: skip
        found += _values("extra", ours.extra, theirs.extra)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{first} or {second} is damaged: {type(error).__name__}: {error}") from error
    return Differences(tuple(found))


def _sections(what: str, here: Any, there: Any) -> Iterator[Difference]:
    if (here is None) != (there is None):
        yield Difference("missing" if there is None else "unexpected", what)


def _tensors(what: str, a: tuple[Path, Manifest], b: tuple[Path, Manifest], file: str) -> Iterator[Difference]:
    (ours, our_sums), (theirs, their_sums) = _held(*a, file), _held(*b, file)
    yield from (Difference("missing", f"{what} {name!r}") for name in ours if name not in theirs)
    yield from (Difference("unexpected", f"{what} {name!r}") for name in theirs if name not in ours)
    same = [name for name in ours if name in theirs]
    for name in same:
        here, there = ours[name], theirs[name]
        if here.shape != there.shape:
            yield Difference("reshaped", f"{what} {name!r}", str(here.shape), str(there.shape))
        elif here.dtype != there.dtype:
            yield Difference("retyped", f"{what} {name!r}", str(here.dtype), str(there.dtype))
    changed = [
        name
        for name in same
        if (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype)
        and our_sums[name] != their_sums[name]
    ]
    if changed:
        shown = ", ".join(map(repr, changed[:_SHOWN]))
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        yield Difference("changed", f"the numbers of {len(changed)} of {len(same)} {what}s: {shown}{more}", tells=True)


def _held(where: Path, found: Manifest, file: str) -> tuple[Mapping[str, Entry], Mapping[str, int]]:
    record = found.files.get(file)
    if record is None:
        return {}, {}
    with contextlib.closing(TensorFile(where / file, record)) as held:
        return held.entries, record.tensors


def _groups(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    """How groups of the same name differ; those without a name go by their place."""
    here, there = (
        {str(group.get("name", index)): group for index, group in enumerate(section["groups"])}
        for section in (ours, theirs)
    )
    yield from (Difference("missing", f"group {name!r}") for name in here if name not in there)
    yield from (Difference("unexpected", f"group {name!r}") for name in there if name not in here)
    for name in here:
        if name not in there:
            continue
        where = f"group {name!r}"
        rules = rule_of(here[name], ours["class"]), rule_of(there[name], theirs["class"])
        if rules[0] != rules[1]:
            yield Difference("changed", f"the rule of {where}", *rules)
        if set(here[name]["params"]) != set(there[name]["params"]):
            counts = len(here[name]["params"]), len(there[name]["params"])
            yield Difference("changed", f"the parameters of {where}", str(counts[0]), str(counts[1]))
        yield from compare_groups(where, readable(here[name]), readable(there[name]), _NOTES)


def _values(what: str, here: Any, there: Any) -> Iterator[Difference]:
    """How two dicts of values differ, as JSON has them."""
    for name in {**here, **there}:
        if name not in there or name not in here:
            yield Difference("missing" if name in here else "unexpected", f"{what} {name!r}", tells=True)
        elif here[name] != there[name]:
            yield Difference(
                "changed",
                f"{what} {name!r}",
                in_words(readable(here[name])),
                in_words(readable(there[name])),
                tells=True,
            )
