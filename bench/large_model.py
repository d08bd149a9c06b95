"""What `python -m bench plan` runs in fresh processes: `python -m bench.large_model RECIPE` prints what planning took.

The model is Llama 2 70B, in bfloat16 on the meta device.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from bench.architectures import llama_70b

RANKS, HORIZON = 64, 500_000


def planned(recipe: str) -> dict[str, float | int | None]:
    """Seconds of each part, and by how many bytes the process has grown at most since torch was imported."""
    before = _status("VmRSS")
    found: dict[str, float | int | None] = {}

    def timed(name: str, start: float) -> float:
        now = time.perf_counter()
        found[name] = now - start
        return now

    start = time.perf_counter()
    with torch.device("meta"):
        model = llama_70b().to(torch.bfloat16)
    start = timed("build", start)
    import stepwell

    start = time.perf_counter()
    plan = stepwell.plan(model, recipe, horizon=HORIZON)
    start = timed("plan", start)
    plan.memory(world_size=RANKS, sharded=True)
    start = timed("memory", start)
    plan.cost()
    timed("cost", start)
    peak = _status("VmHWM")
    grown = None if before is None or peak is None else peak - before
    tensors = sum(len(group.members) for group in plan.groups)
    return {**found, "tensors": tensors, "parameters": plan.parameters, "resident": grown}


def _status(name: str) -> int | None:
    """One of the sizes in /proc/self/status, in bytes; None where the system does not tell."""
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    lines = path.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    print(json.dumps(planned(sys.argv[1])))
