"""What a checkpoint holds, read from its manifest and the headers of its files."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stepwell.checkpoint import folder, manifest
from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.grouping import rule_of
from stepwell.checkpoint.manifest import FORMAT, Manifest
from stepwell.checkpoint.plain import readable, tensor_keys
from stepwell.checkpoint.saving import MODEL, OPTIMIZER
from stepwell.checkpoint.tensorfile import Entry, TensorFile, in_parallel


@dataclass(frozen=True)
class Tensors:
    """How many tensors, how many numbers they hold, in how many bytes, and of which dtypes."""

    tensors: int
    numbers: int
    bytes: int
    dtypes: dict[str, int]

    @classmethod
    def of(cls, entries: list[Entry]) -> Tensors:
        """Those of the tensors in a file."""
        numbers = Counter[str]()
        for entry in entries:
            numbers[str(entry.dtype).removeprefix("torch.")] += math.prod(entry.shape)
        return cls(len(entries), numbers.total(), sum(entry.size for entry in entries), dict(numbers))


@dataclass(frozen=True)
class GroupContents:
    """One parameter group: its name and rule, what it holds, what is chosen for it, and the state of its parameters."""

    name: str
    rule: str
    parameters: int
    numbers: int
    lr: float | None
    weight_decay: float | None
    slots: tuple[str, ...]
    state: Tensors


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        format: the version of the format.
        saved: when, in UTC.
        versions: what it was written with.
        step: the most updates that a parameter has had.
        bytes: of all its files together.
        model: its tensors; None without a model.
        recipe: what the optimizer was built from, as `Recipe.from_dict` takes it; None where it had no recipe. Its
            groups say what holds now.
        groups: the optimizer's groups.
        scheduler: the scheduler's class and state; None without one.
        random: the generators whose states it holds.
        extra: what else was saved, as JSON has it.
        beside: the names of the other checkpoints in the folder.
    """

    path: str
    format: int
    saved: str
    versions: Mapping[str, str]
    step: int | None
    bytes: int
    model: Tensors | None
    recipe: dict[str, Any] | None
    groups: tuple[GroupContents, ...]
    scheduler: dict[str, Any] | None
    random: tuple[str, ...]
    extra: Any
    beside: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def inspect(path: str | os.PathLike[str], *, verify: bool = False) -> Contents:
    """What a checkpoint holds, without reading its tensors.

    Args:
        path: a folder of checkpoints, of which the newest is looked at, or one of them.
        verify: read every tensor too, and compare it with its checksum.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    where = folder.find(Path(path))
    found = manifest.read(where)
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(TensorFile(where / name, record)) for name, record in sorted(found.files.items())
        }
        if verify:
            in_parallel([partial(file.verify, name) for file in files.values() for name in file.entries])
        entries = {name: file.entries for name, file in files.items()}
    try:
        return _contents(where, found, entries)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where / manifest.NAME} is damaged: {type(error).__name__}: {error}") from error


def _contents(where: Path, found: Manifest, entries: Mapping[str, Mapping[str, Entry]]) -> Contents:
    size = (where / manifest.NAME).stat().st_size + sum(record.size for record in found.files.values())
    beside = [one.name for one in folder.checkpoints(where.parent) if one != where]
    return Contents(
        path=str(where),
        format=FORMAT,
        saved=found.saved,
        versions=found.versions,
        step=found.step,
        bytes=size,
        model=None if found.model is None else Tensors.of(list(entries.get(MODEL, {}).values())),
        recipe=readable((found.optimizer or {}).get("recipe")),
        groups=_groups(found.optimizer, entries.get(OPTIMIZER, {})),
        scheduler=found.scheduler,
        random=tuple(found.random or ()),
        extra=found.extra,
        beside=tuple(beside),
    )


def _groups(section: dict[str, Any] | None, entries: Mapping[str, Entry]) -> tuple[GroupContents, ...]:
    if section is None:
        return ()
    return tuple(
        _group(group.get("name", f"group {index}"), group, section, entries)
        for index, group in enumerate(section["groups"])
    )


def _group(
    name: str, group: Mapping[str, Any], section: Mapping[str, Any], entries: Mapping[str, Entry]
) -> GroupContents:
    states = [section["state"].get(name, {}) for name in group["params"]]
    shapes = [section["parameters"][name]["shape"] for name in group["params"]]
    return GroupContents(
        name=name,
        rule=rule_of(group, section["class"]),
        parameters=len(shapes),
        numbers=sum(map(math.prod, shapes)),
        lr=_number(group.get("initial_lr", group.get("lr"))),
        weight_decay=_number(group.get("weight_decay")),
        slots=tuple(dict.fromkeys(slot for state in states for slot in state if slot != "step")),
        state=Tensors.of([entries[key] for key in tensor_keys(states)]),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
