"""Small blocks, and how deep a model's parameters stand."""

from __future__ import annotations

from torch import nn

from stepwell.roles import deepest, parameter_roles


def depths_of(model: nn.Module, **overrides) -> dict[str, int]:
    return {entry.name: entry.depth for entry in parameter_roles(model, **overrides)}


def by_depth(model: nn.Module, **overrides) -> list[list[str]]:
    """The modules (or bare parameters) whose parameters stand at depth 0, at depth 1, and so on."""
    entries = parameter_roles(model, **overrides)
    found: list[dict[str, None]] = [{} for _ in range(deepest(entries) + 1)]
    for entry in entries:
        found[entry.depth].setdefault(entry.name.removesuffix(".weight").removesuffix(".bias"))
    return [list(names) for names in found]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.mlp = Mlp(width)


BLOCK = ("norm", "attn.qkv", "attn.proj", "mlp.up", "mlp.down")


def inside(prefix: str, names: tuple[str, ...] = BLOCK) -> list[str]:
    return [f"{prefix}.{name}" for name in names]
