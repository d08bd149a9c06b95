"""What a step of the optimizer costs: bytes moved, operations done, and the least time that these take."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stepwell.codecs import WEIGHTS, Storage
from stepwell.planning.memory import device_of, engine_name, state_of, state_on_meta
from stepwell.planning.rehearsal import rehearse
from stepwell.rules.hyper import Positive, validated
from stepwell.rules.rule import Rule
from stepwell.text import numbers
from stepwell.text.tabular import text_table

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan


@dataclass(frozen=True)
class GroupCost:
    """What one step of one group takes.

    Attributes:
        group: its name.
        moved: bytes read and written.
        flops: floating-point operations of matrix products.
        seconds: the least time that both take, as they can overlap: the longer of the two.
    """

    group: str
    moved: int
    flops: float
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What one step takes, group by group. `print` shows the table.

    Attributes:
        groups: in the plan's order.
        bandwidth: of the memory, in bytes per second.
        rate: of matrix products, in floating-point operations per second.
    """

    groups: tuple[GroupCost, ...]
    bandwidth: float
    rate: float

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return sum(group.moved for group in self.groups)

    @property
    def flops(self) -> float:
        """Floating-point operations of matrix products."""
        return sum(group.flops for group in self.groups)

    @property
    def seconds(self) -> float:
        """The least time of a step."""
        return sum(group.seconds for group in self.groups)

    def __str__(self) -> str:
        headings = (("group", "moved", "flops", "least time"), "bound by")
        lines = [
            (
                (group.group, numbers.memory(group.moved), f"{group.flops:.3g}", numbers.duration(group.seconds)),
                "products" if group.flops / self.rate > group.moved / self.bandwidth else "memory",
            )
            for group in self.groups
        ]
        total = (("total", numbers.memory(self.moved), f"{self.flops:.3g}", numbers.duration(self.seconds)), "")
        given = f"at {self.bandwidth / 1e9:g} GB/s and {self.rate / 1e12:g} TFLOP/s"
        return f"{text_table(headings, [*lines, total])}\n{given}"


def cost(plan: Plan, *, bandwidth: float, rate: float) -> Cost:
    """See `Plan.cost`."""
    for name, value in (("bandwidth", bandwidth), ("rate", rate)):
        validated(name, value, Positive)
    looks_first = plan.recipe.clip_norm is not None or plan.recipe.on_nonfinite != "ignore"
    groups = []
    for group in plan.groups:
        moved, flops = 0, 0.0
        products: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        for member in group.members:
            weight = member.parameter
            rule = group.rule.fit(tuple(weight.shape))
            engine = engine_name("auto", rule, weight, group.storage)
            moved += _moved(rule, weight, engine, group.storage) + (weight.nbytes if looks_first else 0)
            if engine == "matrices":
                # How it is stored takes no products: one that has no data need not be stored in blocks.
                products[rule, weight.dtype, device_of(weight)].append(weight)
        for (rule, _, device), weights in products.items():
            flops += rehearse(rule, weights, device, "matrices", state_of).flops
        groups.append(GroupCost(group.name, moved, flops, max(moved / bandwidth, flops / rate)))
    return Cost(tuple(groups), bandwidth, rate)


def _moved(rule: Rule, weight: Tensor, engine: str, storage: Storage) -> int:
    """Bytes that a step reads and writes: what the phases of the fused engine load and store; for the others, all once
    read and, but for the gradient, once written."""
    state, codecs = state_on_meta(rule, weight, storage)
    held = {
        number: sum(weight.nbytes if name == WEIGHTS else state[name].nbytes for name in codec.names(number))
        for number, codec in codecs.items()
    }
    if engine != "fused":
        return weight.nbytes + 2 * sum(held.values())
    of_rows = {slot.name for slot in rule.slot_list() if slot.shape is not None}
    small = 2 * sum(size for number, size in held.items() if number in of_rows)
    sizes = {number: size / max(weight.numel(), 1) for number, size in held.items() if number not in of_rows}
    return small + round(weight.numel() * _per_element(rule, weight.element_size(), tuple(sorted(sizes.items()))))


@functools.cache
def _per_element(rule: Rule, gradient: int, sizes: tuple[tuple[str, float], ...]) -> float:
    from stepwell.engines.fused.traces import trace

    known = {"g": gradient, **dict(sizes)}
    functions = ["update"] if type(rule).measure is Rule.measure else ["measure", "update"]
    return sum(
        sum(known.get(name, 0) for name in (*phase.loads, *(name for name, _ in phase.stores)))
        for function in functions
        for phase in trace(rule, function).phases
    )
