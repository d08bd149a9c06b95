"""Whether Numba can compile what has to be compiled, without importing it in every process."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import llvmlite
import numpy as np

from stepwell.machine.cache import keep, kept


def problem() -> str:
    """Why Numba will compile nothing, or "".

    It is imported where it, or what it depends on, is new to this machine's cache; from then on only once there is what
    to compile.
    """
    found = importlib.util.find_spec("numba")
    if found is None or found.origin is None:
        return "Numba is not installed"
    disabled = os.environ.get("NUMBA_DISABLE_JIT", "")
    if disabled.isdigit() and int(disabled):
        return "NUMBA_DISABLE_JIT is set"
    changed = Path(found.origin).stat().st_mtime_ns
    these = (found.origin, changed, llvmlite.__version__, np.__version__, sys.version)
    name = f"numba_{hashlib.sha256(repr(these).encode()).hexdigest()[:16]}.imported"
    if kept(name) is None:
        try:
            import numba  # noqa: F401
        except Exception as error:  # of modules that do not fit each other any error may come
            return f"Numba cannot be imported: {next(iter(str(error).splitlines()), type(error).__name__)}"
        keep(name, b"")
    return ""
