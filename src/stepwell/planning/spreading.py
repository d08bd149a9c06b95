"""How a model lies on many ranks, as far as a plan needs to know: which part of a tensor each rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.codecs import codecs_for
from stepwell.layout import Layout, slot_layout
from stepwell.layout.parts import piece
from stepwell.optimizer.groups import check_parts
from stepwell.planning.laying import PlannedGroup
from stepwell.rules.hyper import Count, validated
from stepwell.rules.rule import Rule, Shape, Slot

Sharded = Literal["state"] | bool
"""What ranks share: nothing (False), the state alone ("state"), or weights, gradients and state (True)."""


@dataclass(frozen=True)
class Spread:
    """Ranks that share, and how often there are so many.

    Attributes:
        sharded: what is shared.
        shards: how many ranks share.
        replicas: how many times so many ranks there are, each with the same.
    """

    sharded: Sharded
    shards: int
    replicas: int

    @classmethod
    def of(cls, world_size: int, sharded: Sharded, replicas: int = 1) -> Spread:
        """The ranks that a plan is asked about. Raises TypeError, ValueError for what cannot be."""
        validated("world_size", world_size, Count)
        validated("replicas", replicas, Count)
        if not (isinstance(sharded, bool) or sharded == "state"):
            raise ValueError(f"sharded must be True, False or 'state', got {sharded!r}")
        if sharded is False:
            return cls(False, 1, world_size)
        if world_size % replicas:
            raise ValueError(f"replicas must divide the {world_size} ranks, got {replicas}")
        return cls(sharded, world_size // replicas, replicas)

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.shards * self.replicas

    @property
    def words(self) -> str:
        """What is on each rank; nothing for a single one."""
        if self.world_size == 1:
            return ""
        how = {True: "sharded", "state": "each with its part of the state", False: "each with everything"}
        among = f" in {self.replicas} groups" if self.sharded and self.replicas > 1 else ""
        return f"per rank, {self.world_size} ranks{among}, {how[self.sharded]}"

    def weights(self, shape: Shape) -> Shape:
        """The shape of what the first rank holds of weights and gradient: the most that any does."""
        return self._first(self.layout(shape), shape) if self.sharded is True else shape

    def worked_on(self, shape: Shape) -> Shape:
        """The shape of what the first rank works on of a parameter."""
        return self._first(self.layout(shape), shape)

    def slot(self, rule: Rule, slot: Slot, shape: Shape) -> Shape:
        """The shape of what the first rank holds of a slot; the rule is fitted to the parameter."""
        layout = self.layout(shape)
        whole = rule.slot_shape(slot, shape)
        return whole if layout is None else self._first(slot_layout(rule, slot, layout), whole)

    def layout(self, shape: Shape) -> Layout | None:
        """How a parameter of this shape is cut: along its first dimension; None where it is whole."""
        if self.shards == 1 or not shape:
            return None
        from torch.distributed.tensor import Shard

        nowhere: Any = None  # a plan is made before there are ranks
        return Layout(nowhere, (Shard(0),), shape)

    def check(self, groups: Sequence[PlannedGroup]) -> None:
        """Raise ValueError or TypeError where an optimizer of these groups would be refused on the ranks."""
        for group in groups:
            for member in group.members:
                shape = tuple(member.parameter.shape)
                if (layout := self.layout(shape)) is not None:
                    rule = group.rule.fit(shape)
                    codecs = codecs_for(rule, shape, member.parameter.dtype, group.storage)
                    check_parts(rule, codecs, layout, repr(member.name), f" (group {group.name!r})", group.storage)

    def _first(self, layout: Layout | None, shape: Shape) -> Shape:
        return shape if layout is None else part_shape(layout, self.shards, 0)


def part_shape(layout: Layout, ranks: int, rank: int) -> Shape:
    """The shape of a rank's part of a tensor that at most one dimension of the mesh cuts."""
    shape = list(layout.shape)
    for _, dim in layout.cuts:
        _, shape[dim] = piece(shape[dim], ranks, rank)
    return tuple(shape)
