"""Kernels: written once, compiled once a machine, and kept in the user's cache folder.

Numba keeps the machine code beside the source, so a later process on the same machine loads it instead of compiling.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numba

from stepwell.engines.fused import memory, numba_writer
from stepwell.engines.fused.program import Program
from stepwell.engines.fused.source import HostScalars, host_function

_LOG = logging.getLogger("stepwell")


class Kernel:
    """A program compiled for the dtypes of its arrays."""

    def __init__(self, program: Program, dtypes: Mapping[str, str]) -> None:
        self.program = program
        self.source = numba_writer.write(program, dtypes)
        self.scalars: HostScalars = host_function(program)
        self.run: Callable[..., None] = _module(program.name, self.source).run


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
def _kernel_folder() -> Path:
    """A folder that can be written to; a temporary one, said once, where the cache folder cannot."""
    folder = cache_folder() / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _LOG.warning(
            "kernels are compiled anew in each process: %s cannot be written (%s); set STEPWELL_CACHE_DIR",
            folder,
            error,
        )
        return Path(tempfile.mkdtemp(prefix="stepwell-kernels-"))
    return folder


def _module(name: str, source: str) -> ModuleType:
    """The source as a module, from a file whose name holds a digest of all that the machine code depends on."""
    parts = (source, Path(memory.__file__).read_text(encoding="utf-8"), numba.__version__)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    module_name = f"stepwell_kernel_{name.replace('.', '_')}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = _kernel_folder() / f"{module_name}.py"
    if not path.exists():
        _write_whole(path, source)
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    specification.loader.exec_module(module)
    return module


def _write_whole(path: Path, text: str) -> None:
    """Write the file so that another process sees it whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(temporary).replace(path)
