"""What a plan needs of memory: weights, gradients, state slot by slot, and the peak of a step."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.batching import prepare
from stepwell.codecs import AS_IT_IS, WEIGHTS, Codec, Storage, codecs_for
from stepwell.engines.choice import engine_for
from stepwell.planning.laying import PlannedGroup, lay
from stepwell.planning.rehearsal import rehearse
from stepwell.recipes import Recipe, RecipeError, preset
from stepwell.report import numbers
from stepwell.rules.hyper import Count, validated
from stepwell.rules.rule import Rule
from stepwell.tabular import text_table

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan


# What a storage is called in a title.
_WORDS = {"bfloat16": "bf16", "8bit": "8-bit", "4bit": "4-bit"} | {
    word: word for word in ("float32", "stochastic", "kahan", "compensated")
}


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

    @property
    def own(self) -> Bytes:
        """What the plan's own recipe needs."""
        return self.rows[0]

    def __str__(self) -> str:
        headings = (("recipe", "weights", "gradients", "state", "step", "peak"), "state by slot")
        lines = [
            (
                (row.title, *map(numbers.memory, (row.weights, row.gradients, row.state, row.step, row.peak))),
                ", ".join(f"{name} {numbers.memory(value)}" for name, value in row.slots.items()) or "none",
            )
            for row in self.rows
        ]
        return "\n".join(filter(None, (text_table(headings, lines), self.ranks)))

    @property
    def ranks(self) -> str:
        """What the figures are of, in words; nothing for a single rank."""
        how = "sharded" if self.sharded else "each with everything"
        return f"per rank, {self.world_size} ranks, {how}" if self.world_size > 1 else ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in bytes."""
        rows = [{**dataclasses.asdict(row), "state": row.state, "peak": row.peak} for row in self.rows]
        return {"world_size": self.world_size, "sharded": self.sharded, "recipes": rows}


def memory(plan: Plan, *, world_size: int, sharded: bool, beside: Sequence[str | Recipe | Storage]) -> Memory:
    """See `Plan.memory`."""
    validated("world_size", world_size, Count)
    ranks = world_size if sharded else 1
    own = plan.recipe
    title = own.name or "this recipe"
    rows = [_bytes(title, plan, own, plan.groups, ranks)]
    for given in beside:
        if isinstance(given, Storage):
            given = own.replace(**given._asdict(), name=" ".join((title, *(_WORDS[word] for word in given if word))))
        chosen = preset(given) if isinstance(given, str) else given
        other = chosen.replace(roles=own.roles, depths=own.depths, engine=own.engine)
        try:
            groups = lay(plan.model, other).groups
        except RecipeError:  # as where weights are complex numbers: it is no alternative then
            continue
        row = _bytes(other.name or other.hash, plan, other, groups, ranks)
        if all(dataclasses.replace(row, title=known.title) != known for known in rows):
            rows.append(row)
    return Memory(tuple(rows), world_size, sharded)


def _bytes(title: str, plan: Plan, recipe: Recipe, groups: tuple[PlannedGroup, ...], ranks: int) -> Bytes:
    slots: Counter[str] = Counter()
    trained = 0
    for group in groups:
        for member in group.members:
            weight = member.parameter
            trained += _shard(weight, ranks)
            state, codecs = state_on_meta(group.rule.fit(tuple(weight.shape)), weight, group.storage)
            for number, codec in codecs.items():
                for name in codec.names(number):
                    if name != WEIGHTS:
                        slots[name if number == WEIGHTS else number] += _shard(state[name], ranks)
    frozen = sum(_shard(entry.parameter, ranks) for entry in plan.frozen)
    return Bytes(title, trained + frozen, trained, dict(slots), _step_peak(groups, recipe, ranks))


def state_of(rule: Rule, weight: Tensor, storage: Storage = AS_IT_IS) -> tuple[dict[str, Any], dict[str, Codec]]:
    """The state that the rule keeps for a parameter, and how weights and slots are stored in it."""
    state: dict[str, Any] = {}
    return state, prepare(rule, weight, state, {}, storage)


def state_on_meta(rule: Rule, weight: Tensor, storage: Storage) -> tuple[dict[str, Any], dict[str, Codec]]:
    """The same, without its data."""
    return state_of(rule, torch.empty_like(weight, device="meta"), storage)


def _shard(tensor: Tensor, ranks: int) -> int:
    """The bytes that the first rank holds: FSDP cuts along the first dimension, and the first parts are the largest."""
    return math.prod(_shard_shape(tensor, ranks)) * tensor.element_size()


def _shard_shape(tensor: Tensor, ranks: int) -> tuple[int, ...]:
    return (math.ceil(tensor.shape[0] / ranks), *tensor.shape[1:]) if tensor.ndim else ()


def _step_peak(groups: tuple[PlannedGroup, ...], recipe: Recipe, ranks: int) -> int:
    """Temporaries at the fullest moment: batches run one after the other, so the largest counts. A rule of matrices
    needs them whole, also where each rank holds a part."""
    alike: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            weight = member.parameter
            fitted = group.rule.fit(tuple(weight.shape))
            engine = engine_name(recipe.engine, fitted, weight, group.storage)
            if engine != "fused":
                whole = ranks == 1 or fitted.acts_on == "matrices"
                held = weight if whole else weight.new_empty(_shard_shape(weight, ranks), device="meta")
                codecs = codecs_for(fitted, tuple(held.shape), weight.dtype, group.storage)
                alike[engine, fitted, group.storage, device_of(weight), *codecs.items()].append(held)
    return max(
        (
            rehearse(rule, weights, device, engine, functools.partial(state_of, storage=storage)).peak
            for (engine, rule, storage, device, *_), weights in alike.items()
        ),
        default=0,
    )


def device_of(weight: Tensor) -> str:
    """The type of device that a step will run on: for a model without data, most likely a GPU."""
    return "cuda" if weight.is_meta else weight.device.type


def engine_name(asked: str, rule: Rule, weight: Tensor, storage: Storage) -> str:
    """The engine that will run a parameter; for one on the meta device, as if it stood on a CPU or GPU."""
    if asked == "auto" and weight.is_meta:
        return "matrices" if rule.acts_on == "matrices" else "fused"
    return engine_for(asked, rule, weight, codecs_for(rule, tuple(weight.shape), weight.dtype, storage)).name
