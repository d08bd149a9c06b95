"""Where kernels are kept from process to process."""

from __future__ import annotations

import functools
import importlib.util
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
            return Path(chosen).expanduser()
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
def kernel_folder(cache: Path | None) -> Path:
    """A folder that can be written to; a temporary one, said once, where the cache folder cannot or there is none."""
    if cache is None:
        problem = "there is no home folder to keep them in"
    else:
        folder = cache / "kernels"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            problem = f"{folder} cannot be written ({error})"
    _LOG.warning("kernels are compiled anew in each process, for %s; set STEPWELL_CACHE_DIR", problem)
    return Path(tempfile.mkdtemp(prefix="stepwell-kernels-"))


def module_in(path: Path) -> ModuleType:
    """The module in this file, under a name of its own."""
    specification = importlib.util.spec_from_file_location(f"stepwell_kernel_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def write_whole(path: Path, content: bytes) -> None:
    """Write the file so that another process sees it whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(temporary).replace(path)
