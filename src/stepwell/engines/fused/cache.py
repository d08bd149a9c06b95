"""Where kernels are kept from process to process."""

from __future__ import annotations

import functools
import logging
import os
import sys
import tempfile
from pathlib import Path

_LOG = logging.getLogger("stepwell")


def cache_folder() -> Path:
    """Where kernels are kept: `$STEPWELL_CACHE_DIR`, or the place that the system has for such files."""
    if chosen := os.environ.get("STEPWELL_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "stepwell"


@functools.cache
def kernel_folder(cache: Path) -> Path:
    """A folder that can be written to; a temporary one, said once, where the cache folder cannot."""
    folder = cache / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _LOG.warning(
            "kernels are compiled anew in each process, for %s cannot be written (%s); set STEPWELL_CACHE_DIR",
            folder,
            error,
        )
        return Path(tempfile.mkdtemp(prefix="stepwell-kernels-"))
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write the file so that another process sees it whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(temporary).replace(path)
