"""A folder of checkpoints: how one comes into being whole or not at all, which ones stay, and what a kill leaves.

    runs/gpt/
        000011/                  a checkpoint, whole: it was given this name last of all
        000012/
        .writing-5f0c9a21/       a checkpoint that is being written, locked by who writes it
        .removing-9d22e07b/      one that is being deleted

A checkpoint is written under a name of its own, each file and the folder are synced to the disk, and one rename makes
it visible. So nobody sees half of one, and two writers cannot get into each other's way. What a killed process has
left behind is known by its lock being free, and goes at the next save.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.manifest import NAME

if sys.platform != "win32":  # which has no such locks
    import fcntl

_NUMBERED = re.compile(r"\d{6,}")
_WRITING, _REMOVING = ".writing-", ".removing-"


def checkpoints(path: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    try:
        found = [entry for entry in path.iterdir() if _is_checkpoint(entry)]
    except OSError:
        return []
    return sorted(found, key=lambda entry: int(entry.name))


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, be it one that has lost its manifest; other folders have numbers, too."""
    return bool(_NUMBERED.fullmatch(path.name)) and ((path / NAME).exists() or any(path.glob("*.safetensors")))


def find(path: Path) -> Path:
    """The checkpoint that `path` names: itself, or the newest in it. Raises CheckpointError where there is none."""
    if (path / NAME).exists():
        return path
    if found := checkpoints(path):
        return found[-1]
    if _is_checkpoint(path):
        return path  # damaged: whoever reads it says how
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file, and a checkpoint is a folder; stepwell.checkpoint.migrate reads files of other packages"
        )
    if (path / ".metadata").is_file():
        raise CheckpointError(f"{path} was saved by torch.distributed.checkpoint: its own load reads it")
    raise CheckpointError(f"there is no checkpoint in {path}" if path.exists() else f"there is no folder {path}")


def one_before(checkpoint: Path) -> Path | None:
    """The newest checkpoint beside this one that is older, if there is one."""
    if not _NUMBERED.fullmatch(checkpoint.name):
        return None
    older = [one for one in checkpoints(checkpoint.parent) if int(one.name) < int(checkpoint.name)]
    return older[-1] if older else None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A new folder in `path` to write a checkpoint into; it is gone where that fails. `publish` makes it last.

    Raises:
        OSError: `path` cannot be made, or cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    clear(path)
    with _own_folder(path) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # where it has been published, there is nothing of the name


@contextlib.contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    while True:
        folder = path / f"{_WRITING}{secrets.token_hex(4)}"
        folder.mkdir()
        with _locked(folder) as mine:
            if mine is not False and folder.exists():  # else it was taken for a leftover, before the lock was there
                yield folder
                return


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool | None]:
    """Whether the folder's lock was free, and is ours within this context; None where there are no locks.

    The lock ends with the process.
    """
    if sys.platform == "win32":
        yield None
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield False if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) else None
        else:
            yield True
    finally:
        os.close(descriptor)


def publish(folder: Path) -> Path:
    """Give a written folder the next number, and wait until the disk has it."""
    sync(folder)
    number = 0
    while True:
        number = 1 + max([number, *(int(one.name) for one in checkpoints(folder.parent))])
        final = folder.parent / f"{number:06d}"
        if final.exists():  # and is no checkpoint; an empty folder would be written over
            continue
        try:
            folder.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            sync(folder.parent)
            return final


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, which nobody sees from the first moment on. Raises OSError where it cannot be renamed."""
    going = checkpoint.with_name(f"{_REMOVING}{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):  # another one has deleted it
        checkpoint.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def clear(path: Path) -> None:
    """Delete what killed processes have left."""
    for entry in path.glob(f"{_REMOVING}*"):
        shutil.rmtree(entry, ignore_errors=True)
    for entry in path.glob(f"{_WRITING}*"):
        with _locked(entry) as free:
            if free:  # not where there are no locks: it may be in use
                shutil.rmtree(entry, ignore_errors=True)


def sync(folder: Path) -> None:
    """Wait until the disk has a folder's list of names."""
    if sys.platform == "win32":  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
