"""The storages that the conformance suite crosses with rules and engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepwell import Optimizer, Rule
from stepwell.codecs import WEIGHTS, Blocks, Codec, Storage, codecs_for, parts_of
from stepwell.rules.registry import rule_class

# The first two keep float32 state in 8 and 4 bits; the third has rows of whole blocks.
SHAPES = ((7,), (3, 5), (18, 256), (5003,))


@dataclass(frozen=True)
class Kept:
    """A storage, and the dtype of the weights that it is tried with."""

    dtype: torch.dtype
    state_dtype: Any = None
    master: Any = None

    def __str__(self) -> str:
        parts = (str(self.dtype).removeprefix("torch."), self.state_dtype, self.master)
        return "-".join(part for part in parts if part)

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of an optimizer."""
        return {"state_dtype": self.state_dtype, "master": self.master, "rounding_seed": 5}


BF16, F32 = torch.bfloat16, torch.float32
STORAGES = (
    Kept(BF16, master="stochastic"),
    Kept(BF16, state_dtype="bfloat16", master="kahan"),
    Kept(BF16, state_dtype="float32", master="compensated"),
    Kept(torch.float16, master="float32"),
    Kept(F32, state_dtype="bfloat16"),
    Kept(F32, state_dtype="8bit"),
    Kept(BF16, state_dtype="8bit", master="stochastic"),
    Kept(F32, state_dtype="4bit"),
    Kept(BF16, state_dtype="bfloat16", master="compensated8"),
)


# What the fused engine is compiled for: AdamW in every storage, and elements, tensors, rows and an average in two.
_COMPILED = ("Lion", "LAMB", "AdamMini", "ScheduleFreeAdamW")
_IN_TWO = (STORAGES[2], STORAGES[6])


def compiles(name: str, kept: Kept) -> bool:
    """Whether a test may ask the fused engine for this rule in this storage: each kernel takes a second or two."""
    return name == "AdamW" or (name in _COMPILED and kept in _IN_TWO)


def fits(rule: Rule, kept: Kept) -> bool:
    """Whether the rule can be stored so."""
    slots = [slot for shape in SHAPES for slot in rule.fit(shape).slot_list()]
    return kept.state_dtype not in ("8bit", "4bit") or any(
        not (slot.scalar or slot.wide or slot.fine or slot.shape) for slot in slots
    )


def codecs_of(optimizer: Optimizer, p: Tensor) -> dict[str, Codec]:
    """How the weights and the slots of one parameter are stored."""
    group = next(group for group in optimizer.param_groups if any(p is each for each in group["params"]))
    rule = rule_class(group["rule"]).of(group).fit(tuple(p.shape))
    return codecs_for(rule, tuple(p.shape), p.dtype, Storage.of(group))


def numbers(optimizer: Optimizer) -> dict[str, list[Tensor]]:
    """Weights and slots of every parameter, as the rule sees them."""
    found: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            for name, codec in codecs_of(optimizer, p).items():
                shape = tuple(p.shape) if name == WEIGHTS or isinstance(codec, Blocks) else ()
                parts = parts_of(name, codec, optimizer.state[p], p)
                found.setdefault(name, []).append(codec.load(parts, shape).double())
    return found


ROUGH = {"8bit": 0.1, "4bit": 1.0, "bfloat16": 0.02}


def assert_alike(ours: Optimizer, theirs: Optimizer, kept: Kept) -> None:
    """The same numbers but for one in a hundred, which float32 and float64 round to the two sides of a border; none
    further off than the storage is rough."""
    rough = max(ROUGH.get(kept.state_dtype, 0.0), 0.02 if kept.dtype.itemsize == 2 else 0.0)
    for name, expected in numbers(theirs).items():
        for a, e in zip(numbers(ours)[name], expected, strict=True):
            largest = float(e.abs().max()) if e.numel() else 0.0
            assert float((a - e).abs().max() if e.numel() else 0.0) <= max(rough, 1e-5) * largest, name
            assert int(((a - e).abs() > 2e-5 * largest).sum()) <= max(1, 0.02 * e.numel()), name
