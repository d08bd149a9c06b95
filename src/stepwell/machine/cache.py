"""Where kernels are kept from process to process."""

from __future__ import annotations

import functools
import linecache
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

_LOG = logging.getLogger("stepwell")


def cache_folder() -> Path | None:
    """Where kernels are kept: `$STEPWELL_CACHE_DIR`, or the place that the system has for such files. None where that
    is in the home folder of a user without one, as in a container under a bare number."""
    try:
        if chosen := os.environ.get("STEPWELL_CACHE_DIR"):
            return _absolute(chosen)
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "stepwell"


@functools.cache
def _absolute(folder: str) -> Path:
    """As it was when it was first asked for: a process may go to another folder."""
    return Path(folder).expanduser().absolute()


def _path(name: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "kernels" / name


def kept(name: str) -> bytes | None:
    """The content of the file of that name, or None where there is none."""
    try:
        return path.read_bytes() if (path := _path(name)) is not None else None
    except OSError:
        return None


def keep(name: str, content: bytes) -> None:
    """Keep a file for later processes, which see it whole or not at all. Where that cannot be, it is said once."""
    if (path := _path(name)) is None:
        _say_not_kept("there is no home folder to keep them in")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        _say_not_kept(f"{path.parent} cannot be written ({error.strerror})")


@functools.cache
def _say_not_kept(problem: str) -> None:
    _LOG.warning("kernels are compiled anew in each process, for %s; set STEPWELL_CACHE_DIR", problem)


def module_of(name: str, source: str) -> ModuleType:
    """The module of a source whose file has that name, whether or not it could be kept."""
    place = str(_path(name) or name)
    module = ModuleType(f"stepwell_kernel_{Path(name).stem}")
    module.__file__ = place
    sys.modules[module.__name__] = module
    # Where tracebacks, and Triton, look for the source.
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    exec(compile(source, place, "exec"), module.__dict__)
    return module
