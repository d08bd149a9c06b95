"""Whether the files that many ranks have saved by `torch.distributed.checkpoint` are all there."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from stepwell.checkpoint.errors import CheckpointError, DamagedError, one_line

_METADATA = ".metadata"
_OF_A_RANK = re.compile(r"__(\d+)_\d+\.distcp")


def check_parts(path: str | os.PathLike[str]) -> None:
    """See that no rank's file is missing or cut off, before `torch.distributed.checkpoint.load` fills live tensors.

    torch says so too, but with what each rank was doing, and when it has read what there is. Nothing of the tensors is
    read here, and torch keeps no checksums: a file of the right length is believed. What lists the files is a pickle of
    torch's, which `torch.distributed.checkpoint.load` opens as well, so open what you trust.

    Args:
        path: the folder, given as `checkpoint_id` where it was saved.

    Raises:
        CheckpointError: there is no such checkpoint.
        DamagedError: files are missing or cut off; the message names them and their ranks.
    """
    where = Path(path)
    if not where.is_dir():
        raise CheckpointError(f"there is no folder {where}")
    if not (where / _METADATA).is_file():
        raise CheckpointError(
            f"{where} is no checkpoint of torch.distributed.checkpoint: it has no {_METADATA}, which is written last, "
            "when all ranks have saved"
        )
    needed = _sizes(where)
    missing = [name for name in needed if not (where / name).is_file()]
    if missing:
        there = len(needed) - len(missing)
        raise DamagedError(f"{where} lacks {_named(missing)}: {there} of {len(needed)} files are there")
    short = [name for name, size in needed.items() if (where / name).stat().st_size < size]
    if short:
        has, size = (where / short[0]).stat().st_size, needed[short[0]]
        raise DamagedError(f"{where} is cut off in {_named(short)}: {has:,} bytes of {size:,} in the first")


def _sizes(where: Path) -> dict[str, int]:
    """How many bytes each file has at least."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader  # which takes a while to import

    ends: dict[str, int] = defaultdict(int)
    try:
        stored: dict[Any, Any] = FileSystemReader(where).read_metadata().storage_data
        for part in stored.values():
            ends[part.relative_path] = max(ends[part.relative_path], part.offset + part.length)
    except Exception as error:  # a pickle that is damaged may raise anything
        raise DamagedError(f"{where / _METADATA} cannot be read: {type(error).__name__}: {one_line(error)}") from error
    return dict(sorted(ends.items()))


def _named(files: list[str]) -> str:
    """The first files, and whose they are."""
    rank = _OF_A_RANK.fullmatch(files[0])
    whose = f", which rank {rank[1]} saved" if rank else ""
    return f"{files[0]!r}{whose}" + (f", and {len(files) - 1} more" if len(files) > 1 else "")
