"""Functions run on several ranks, each a process of its own, that talk over gloo; or over NCCL, each with a GPU."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT = 240  # seconds


def on_ranks(function: Callable[..., Any], ranks: int, *arguments: Any, backend: str = "gloo") -> list[Any]:
    """What `function(*arguments)` returns on each rank. It is a function of a module; what it returns is plain data
    and tensors. A rank that fails, or hangs, fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        context: Any = mp.start_processes(
            _run, (function, ranks, folder, arguments, backend), nprocs=ranks, join=False, start_method="spawn"
        )
        until = time.monotonic() + LIMIT
        try:
            while not context.join(timeout=max(0.0, until - time.monotonic())):
                if time.monotonic() > until:
                    raise TimeoutError(f"{function.__name__} on {ranks} ranks takes more than {LIMIT} s")
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def device_type() -> str:
    """Where the ranks of this process have their tensors."""
    return "cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu"


def _run(
    rank: int, function: Callable[..., Any], ranks: int, folder: str, arguments: tuple[Any, ...], backend: str
) -> None:
    warnings.filterwarnings("ignore")  # torch's own, of its experimental parts
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        result = function(*arguments)
        torch.save(result, Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
    # FSDP keeps threads of gloo, which abort where they let go of a tensor as Python ends (pytorch issue 190489).
    os._exit(0)
