"""What `python -m bench plan` runs in fresh processes: `python -m bench.large_model RECIPE` prints what planning took.

The model has the sizes of Llama 2 70B (Touvron et al. 2023, arXiv:2307.09288: 80 layers of width 8192 with 64 heads, 8
of them for keys and values, a perceptron of width 28672, 32000 tokens), in bfloat16 on the meta device.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

RANKS, HORIZON = 64, 500_000


class Attention(nn.Module):
    """The matrices of grouped-query attention."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, shared * (width // heads), bias=False)
        self.v_proj = nn.Linear(width, shared * (width // heads), bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)


class Perceptron(nn.Module):
    """The matrices of a gated perceptron."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)


class Block(nn.Module):
    """One layer."""

    def __init__(self, width: int, heads: int, shared: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, shared)
        self.mlp = Perceptron(width, inner)
        self.input_layernorm = nn.RMSNorm(width)
        self.post_attention_layernorm = nn.RMSNorm(width)


class Llama(nn.Module):
    """The parameters of the model; it is never run."""

    def __init__(
        self,
        *,
        layers: int = 80,
        width: int = 8192,
        heads: int = 64,
        shared: int = 8,
        inner: int = 28672,
        tokens: int = 32000,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(Block(width, heads, shared, inner) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, tokens, bias=False)


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
        model = Llama().to(torch.bfloat16)
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
