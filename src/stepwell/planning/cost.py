"""What a step of the optimizer costs: bytes moved, operations done, and the least time that these take."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stepwell.planning.memory import device_of, engine_name, state_of, state_on_meta
from stepwell.planning.rehearsal import rehearse
from stepwell.report import numbers
from stepwell.rules.hyper import Positive, validated
from stepwell.rules.rule import Rule
from stepwell.tabular import text_table

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
            engine = engine_name("auto", rule, weight)
            moved += _moved(rule, weight, engine) + (weight.nbytes if looks_first else 0)
            if engine == "matrices":
                products[rule, weight.dtype, device_of(weight)].append(weight)
        for (rule, _, device), weights in products.items():
            flops += rehearse(rule, weights, device, "matrices", state_of).flops
        groups.append(GroupCost(group.name, moved, flops, max(moved / bandwidth, flops / rate)))
    return Cost(tuple(groups), bandwidth, rate)


def _moved(rule: Rule, weight: Tensor, engine: str) -> int:
    """Bytes that a step reads and writes: what the phases of the fused engine load and store; for the others, all once
    read and, but for the gradient, once written."""
    slots = {name: tensor for name, tensor in state_on_meta(rule, weight).items() if isinstance(tensor, Tensor)}
    if engine != "fused":
        return 3 * weight.nbytes + 2 * sum(tensor.nbytes for tensor in slots.values())
    sizes = {name: tensor.element_size() for name, tensor in slots.items()}
    of_elements = {name: size for name, size in sizes.items() if slots[name].shape == weight.shape}
    small = 2 * sum(tensor.nbytes for name, tensor in slots.items() if name not in of_elements)
    return small + weight.numel() * _per_element(rule, weight.element_size(), tuple(sorted(of_elements.items())))


@functools.cache
def _per_element(rule: Rule, itemsize: int, sizes: tuple[tuple[str, int], ...]) -> int:
    from stepwell.engines.fused.traces import trace

    known = {"p": itemsize, "g": itemsize, **dict(sizes)}
    functions = ["update"] if type(rule).measure is Rule.measure else ["measure", "update"]
    return sum(
        sum(known.get(name, 0) for name in (*phase.loads, *(name for name, _ in phase.stores)))
        for function in functions
        for phase in trace(rule, function).phases
    )
