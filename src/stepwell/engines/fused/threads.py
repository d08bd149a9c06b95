"""Several threads through one kernel.

On Linux these are the very threads that torch computes with, of the OpenMP library that torch brings along: a second
pool would compete with them for the cores. Elsewhere they are a pool of Python threads, which a kernel leaves alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

Run = Callable[[int], None]


def run_in_threads(run: Run, frame: int, threads: int) -> None:
    """Call `run(frame)` in that many threads at once, this one among them, and wait for all."""
    openmp = _openmp()
    if threads == 1:
        run(frame)
    elif openmp is not None:
        openmp(run, frame, threads, 0)
    else:
        others = [_pool(threads - 1, os.getpid()).submit(run, frame) for _ in range(threads - 1)]
        run(frame)
        for other in others:
            other.result()


@functools.cache
def _openmp() -> Callable[[Any, int, int, int], None] | None:
    """`GOMP_parallel(function, data, threads, flags)` of the library that torch has loaded."""
    if not sys.platform.startswith("linux"):
        return None
    folder = Path(torch.__file__).parent
    for path in [*(folder / "lib").glob("libgomp*.so*"), *(folder.parent / "torch.libs").glob("libgomp*.so*")]:
        parallel = ctypes.CDLL(str(path)).GOMP_parallel
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        function: Callable[[Any, int, int, int], None] = parallel
        return function
    return None


@functools.cache
def _pool(size: int, process: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(size, thread_name_prefix=f"stepwell-{process}")
