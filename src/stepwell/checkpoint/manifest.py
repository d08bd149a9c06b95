"""`checkpoint.json`: what a checkpoint holds beside its tensors, with a checksum of its own.

The file is one JSON object. Its first line holds the SHA-256 of all bytes after that line, so that no region of it can
be damaged unnoticed; the files of tensors are listed with their checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from stepwell.checkpoint.errors import CheckpointError, DamagedError
from stepwell.checkpoint.tensorfile import FileRecord

NAME = "checkpoint.json"
KIND = "stepwell checkpoint"
FORMAT = 1

_FIRST_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n')


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds. The sections are trees that `stepwell.checkpoint.plain` has encoded; None is absent.

    Attributes:
        training: a random name of the training that it belongs to, which a resume passes on.
        step: the most updates that a parameter has had; None without an optimizer.
        saved: when, in UTC (ISO 8601).
        versions: of what it was written with.
        files: the files of tensors, by name.
        model, optimizer, scheduler, random, extra: the sections.
    """

    training: str
    step: int | None = None
    saved: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    random: dict[str, Any] | None = None
    extra: Any = None

    def to_bytes(self) -> bytes:
        """The content of the file."""
        content = {
            "kind": KIND,
            "format": FORMAT,
            **asdict(self),
            "files": {name: record.to_data() for name, record in self.files.items()},
        }
        text = json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)
        # What is no Unicode (half of a surrogate pair, as in a file's name from os.fsdecode) becomes JSON's own escape.
        body = text.removeprefix("{\n").encode(errors="backslashreplace") + b"\n"
        return b'{"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body


def versions() -> dict[str, str]:
    """What a checkpoint is written with."""
    from stepwell import __version__  # the package imports this module

    return {"stepwell": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def write(folder: Path, content: Manifest) -> None:
    """Write a manifest, and wait until the disk has it."""
    with (folder / NAME).open("xb") as file:
        file.write(content.to_bytes())
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: the folder is no checkpoint, or its manifest is damaged, or of a newer format.
    """
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{folder} is no checkpoint: it has no {NAME}") from None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
    return _parsed(content, path)


def _parsed(content: bytes, path: Path) -> Manifest:
    first = _FIRST_LINE.match(content)
    if first is None or hashlib.sha256(content[first.end() :]).hexdigest().encode() != first[1]:
        raise DamagedError(f"{path} is damaged: it does not have the checksum that it was saved with")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is no manifest of a checkpoint: {error}") from error
    if data.get("kind") != KIND or type(data.get("format")) is not int:
        raise CheckpointError(f"{path} is no manifest of a checkpoint: its kind is {data.get('kind')!r}")
    if data["format"] > FORMAT:
        by = data["versions"].get("stepwell", "?") if isinstance(data.get("versions"), dict) else "?"
        raise CheckpointError(
            f"{path.parent} has format {data['format']}, written by stepwell {by}; this stepwell reads up to format "
            f"{FORMAT}: pip install --upgrade stepwell"
        )
    try:
        return _manifest(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} lacks what a checkpoint of its format has: {error}") from error


def _manifest(data: Mapping[str, Any]) -> Manifest:
    for name, kinds in _KINDS.items():
        if not isinstance(data[name], kinds):
            raise TypeError(f"its {name!r} is a {type(data[name]).__name__}")
    files = {name: FileRecord.from_data(record) for name, record in data["files"].items()}
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"its file {name!r} is not beside it")
    return Manifest(**{name: data[name] for name in _KINDS}, files=files, extra=data["extra"])


_KINDS: dict[str, Any] = {
    "training": str,
    "step": (int, type(None)),
    "saved": str,
    "versions": dict,
    **dict.fromkeys(("model", "optimizer", "scheduler", "random"), (dict, type(None))),
}
