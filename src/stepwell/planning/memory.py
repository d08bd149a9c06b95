"""What a plan needs of memory: weights, gradients, state slot by slot, and the peak of a step."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.batching import prepare
from stepwell.engines.choice import engine_for
from stepwell.planning.laying import PlannedGroup, lay
from stepwell.planning.rehearsal import rehearse
from stepwell.recipes import Recipe, preset
from stepwell.rules.hyper import Count, validated
from stepwell.rules.rule import Rule
from stepwell.tabular import text_table

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan

BESIDE = ("adamw", "lion", "muon", "t5-adafactor")
"""The presets that a plan's memory is compared with."""


@dataclass(frozen=True)
class Bytes:
    """What one recipe needs, in bytes on the first rank.

    Attributes:
        title: the recipe.
        weights: the parameters, frozen ones included.
        gradients: of the trained ones, in their dtype.
        slots: the state, by slot.
        step: temporaries of a step at its fullest moment.
    """

    title: str
    weights: int
    gradients: int
    slots: Mapping[str, int]
    step: int

    @property
    def state(self) -> int:
        return sum(self.slots.values())

    @property
    def peak(self) -> int:
        """All of it together, at the fullest moment of a step."""
        return self.weights + self.gradients + self.state + self.step


@dataclass(frozen=True)
class Memory:
    """What a recipe needs of memory, and others beside it. `print` shows the table.

    Attributes:
        rows: the plan's own recipe first.
        world_size: the number of ranks.
        sharded: whether the ranks share weights, gradients and state among them.
    """

    rows: tuple[Bytes, ...]
    world_size: int
    sharded: bool

    def __getattr__(self, name: str) -> Any:
        """What the plan's own recipe needs: `plan.memory().state`."""
        if name.startswith("__") or "rows" not in vars(self):
            raise AttributeError(name)
        return getattr(self.rows[0], name)

    def __str__(self) -> str:
        headings = (("recipe", "weights", "gradients", "state", "step", "peak"), "state by slot")
        lines = [
            (
                (row.title, *map(size, (row.weights, row.gradients, row.state, row.step, row.peak))),
                ", ".join(f"{name} {size(value)}" for name, value in row.slots.items()) or "none",
            )
            for row in self.rows
        ]
        ranks = f"per rank, {self.world_size} ranks, {'sharded' if self.sharded else 'each with everything'}"
        return text_table(headings, lines) + (f"\n{ranks}" if self.world_size > 1 else "")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in bytes."""
        rows = [{**dataclasses.asdict(row), "state": row.state, "peak": row.peak} for row in self.rows]
        return {"world_size": self.world_size, "sharded": self.sharded, "recipes": rows}


def memory(plan: Plan, *, world_size: int, sharded: bool) -> Memory:
    """See `Plan.memory`."""
    ranks = validated("world_size", world_size, Count) if sharded else 1
    validated("world_size", world_size, Count)
    own = plan.recipe.name or "this recipe"
    rows = [_bytes(own, plan, plan.recipe, plan.groups, ranks)]
    for name in BESIDE:
        if preset(name).hash == plan.recipe.hash or name == own:
            continue
        other = preset(name).replace(roles=plan.recipe.roles, depths=plan.recipe.depths)
        rows.append(_bytes(name, plan, other, lay(plan.model, other).groups, ranks))
    return Memory(tuple(rows), world_size, sharded)


def _bytes(title: str, plan: Plan, recipe: Recipe, groups: tuple[PlannedGroup, ...], ranks: int) -> Bytes:
    slots: Counter[str] = Counter()
    gradients = 0
    for group in groups:
        for member in group.members:
            weight = member.parameter
            rule = group.rule.fit(tuple(weight.shape))
            gradients += _shard(weight, ranks)
            for name, tensor in state_on_meta(rule, weight).items():
                if isinstance(tensor, Tensor):
                    slots[name] += _shard(tensor, ranks)
    trained = sum(_shard(member.parameter, ranks) for group in groups for member in group.members)
    frozen = sum(_shard(entry.parameter, ranks) for entry in plan.frozen)
    return Bytes(title, trained + frozen, gradients, dict(slots), _step_peak(groups, recipe))


def state_of(rule: Rule, weight: Tensor) -> dict[str, Any]:
    """The state that the rule keeps for a parameter."""
    state: dict[str, Any] = {}
    prepare(rule, weight, state, {})
    return state


def state_on_meta(rule: Rule, weight: Tensor) -> dict[str, Any]:
    """The same, without its data."""
    return state_of(rule, torch.empty_like(weight, device="meta"))


def _shard(tensor: Tensor, ranks: int) -> int:
    """The bytes that the first rank holds: FSDP cuts along the first dimension, and the first parts are the largest."""
    if tensor.ndim == 0 or ranks == 1:
        return tensor.nbytes
    return math.ceil(tensor.shape[0] / ranks) * (tensor.nbytes // max(tensor.shape[0], 1))


def _step_peak(groups: tuple[PlannedGroup, ...], recipe: Recipe) -> int:
    """Temporaries at the fullest moment: batches run one after the other, so the largest counts."""
    members: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            fitted = group.rule.fit(tuple(member.parameter.shape))
            engine = engine_name(recipe.engine, fitted, member.parameter)
            if engine != "fused":
                members[engine, fitted, member.parameter.dtype].append(member.parameter)
    return max(
        (
            rehearse(rule, weights, device_of(weights[0]), engine, state_of).peak
            for (engine, rule, _), weights in members.items()
        ),
        default=0,
    )


def device_of(weight: Tensor) -> str:
    """The type of device that a step will run on: for a model without data, most likely a GPU."""
    return "cuda" if weight.is_meta else weight.device.type


def engine_name(asked: str, rule: Rule, weight: Tensor) -> str:
    """The engine that will run a parameter; for one on the meta device, as if it stood on a CPU or GPU."""
    if asked == "auto" and weight.is_meta:
        return "matrices" if rule.acts_on == "matrices" else "fused"
    return engine_for(asked, rule, weight).name


def size(count: float) -> str:
    """Bytes as a reader wants them: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return (
                f"{count:.0f} {unit}"
                if unit == "B"
                else f"{count:.3g} {unit}"
                if count < 1000
                else f"{count:,.0f} {unit}"
            )
        count /= 1024
    raise AssertionError
