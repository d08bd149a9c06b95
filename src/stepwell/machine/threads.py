"""Several threads through one kernel.

On Linux these are the very threads that torch computes with, of the OpenMP library that torch brings along: a second
pool would compete with them for the cores. Elsewhere they are a pool of Python threads, which a kernel leaves alone.

No thread survives a fork, and OpenMP waits for those that it had: a process that is forked after a step has one thread.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

Run = Callable[[int], None]

_LOG = logging.getLogger("stepwell")


def run_in_threads(run: Run, frame: int, threads: int) -> None:
    """Call `run(frame)` in that many threads at once, this one among them, and wait for all."""
    openmp = _openmp()
    if threads == 1:
        run(frame)
    elif openmp is not None:
        if _process_with_threads() == os.getpid():
            openmp(run, frame, threads, 0)
        else:
            _say_forked(_process_with_threads())
            run(frame)
    else:
        others = [_pool(threads - 1, os.getpid()).submit(run, frame) for _ in range(threads - 1)]
        run(frame)
        for other in others:
            other.result()


@functools.cache
def _process_with_threads() -> int:
    """The process that OpenMP has first made threads for: this one, or one that it was forked from."""
    return os.getpid()


@functools.cache
def _say_forked(parent: int) -> None:
    _LOG.warning(
        "this process was forked after process %d had taken a step in several threads, which OpenMP would wait for; "
        "stepwell's kernels run in one here, and torch's functions do after torch.set_num_threads(1) (a process that "
        "is spawned has all)",
        parent,
    )


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
