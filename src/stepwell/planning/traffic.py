"""What ranks send each other in a step: for the training, as DDP and FSDP2 do it, and for the optimizer.

Bytes are counted as the usual algorithms send them. On a ring of n ranks (Patarasuk & Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002) each of them sends, of a tensor of b bytes, (n − 1)/n·b to reduce and scatter it, as
much to gather it, and both to reduce it for all. In an all-to-all a rank sends what it has for the others, and ranks
may send or get more than others: counted is the busiest, in whichever of the two it has more of.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.algebra.tracing import Expression, Level
from stepwell.engines.ranks.sharing import dtype_of_number, exchanged, layout_of_number, shared_out, whole_here
from stepwell.layout import Layout
from stepwell.planning.laying import PlannedGroup
from stepwell.planning.memory import Way, alike, bucket_key
from stepwell.planning.spreading import Spread, part_shape
from stepwell.rules.rule import Rule, Shape
from stepwell.text import numbers
from stepwell.text.tabular import text_table

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan

Of = Literal["training", "optimizer"]


@dataclass(frozen=True)
class Message:
    """What is sent once in a step.

    Attributes:
        of: "training", what DDP or FSDP2 send whatever the optimizer is, or "optimizer".
        what: what is sent.
        how: the collective, and over how many ranks.
        bytes: that the busiest rank sends, or gets where that is more.
    """

    of: Of
    what: str
    how: str
    bytes: int


@dataclass(frozen=True)
class Traffic:
    """What ranks send each other in a step. `print` shows the table.

    Attributes:
        messages: in the order in which they are sent.
        spread: how the model lies on ranks.
    """

    messages: tuple[Message, ...]
    spread: Spread

    @property
    def training(self) -> int:
        """What DDP or FSDP2 send, in bytes."""
        return sum(message.bytes for message in self.messages if message.of == "training")

    @property
    def optimizer(self) -> int:
        """What the optimizer sends, in bytes."""
        return sum(message.bytes for message in self.messages if message.of == "optimizer")

    def __str__(self) -> str:
        lines = [((m.of, m.what, numbers.memory(m.bytes)), m.how) for m in self.messages]
        text = text_table((("for", "what", "bytes"), "how"), lines, left_aligned=2)
        return "\n".join(filter(None, (text, self.spread.words)))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in bytes."""
        spread = self.spread
        return {
            "world_size": spread.world_size,
            "sharded": spread.sharded,
            "replicas": spread.replicas if spread.sharded else 1,
            "messages": [dataclasses.asdict(message) for message in self.messages],
            "training": self.training,
            "optimizer": self.optimizer,
        }


def traffic(plan: Plan, spread: Spread) -> Traffic:
    """See `Plan.traffic`."""
    spread.check(plan.groups)
    messages = [*_training(plan, spread), *_optimizer(plan, spread)]
    return Traffic(tuple(message for message in messages if message.bytes), spread)


def _training(plan: Plan, spread: Spread) -> Iterator[Message]:
    """What DDP sends, or FSDP2 where every module gives its weights back after the forward pass. FSDP2 fills up parts
    to the size of the first rank's."""
    shards, replicas = spread.shards, spread.replicas
    trained = [member.parameter for group in plan.groups for member in group.members]
    if spread.sharded is not True:
        yield _all_reduce("training", "gradients", spread.world_size, sum(weight.nbytes for weight in trained))
        return
    gradients = sum(_part(weight, spread) for weight in trained)
    weights = gradients + sum(_part(entry.parameter, spread) for entry in plan.frozen)
    for when in ("forward", "backward"):
        yield Message("training", f"weights, {when}", f"all-gather over {shards}", (shards - 1) * weights)
    yield Message("training", "gradients", f"reduce-scatter over {shards}", (shards - 1) * gradients)
    yield _all_reduce("training", "parts of gradients", replicas, gradients)


def _part(weight: Tensor, spread: Spread) -> int:
    return math.prod(spread.weights(tuple(weight.shape))) * weight.element_size()


def _optimizer(plan: Plan, spread: Spread) -> Iterator[Message]:
    if spread.shards == 1:
        return
    agreed = 1 + sum(len(group.members) for group in plan.groups)
    for ranks in (spread.shards, spread.replicas if spread.sharded is True else 1):
        yield _all_reduce("optimizer", "which have a gradient", ranks, 4 * agreed)
    if spread.sharded is True and (plan.recipe.clip_norm is not None or plan.recipe.on_nonfinite != "ignore"):
        cut = sum(bool(member.parameter.ndim) for group in plan.groups for member in group.members)
        yield _all_reduce("optimizer", "norms of gradients", spread.shards, 8 * cut)
    over = f"all-to-all over {spread.shards}"
    for bucket in _buckets(plan.groups):
        yield _all_reduce("optimizer", "measures", spread.shards, _measures(bucket))
        yield _all_reduce("optimizer", "sums", spread.shards, _sums(bucket))
        there, back = _matrices(bucket, spread)
        yield Message("optimizer", "matrices, to their ranks", over, there)
        yield Message("optimizer", "matrices, back", over, back)
    if spread.sharded == "state":
        size = _new_weights(plan.groups, spread)
        yield Message("optimizer", "new weights", f"all-gather over {spread.shards}", (spread.shards - 1) * size)


def _all_reduce(of: Of, what: str, ranks: int, size: int) -> Message:
    return Message(of, what, f"all-reduce over {ranks}", round(2 * (ranks - 1) / ranks * size))


Bucket = list[tuple[Rule, Shape, torch.dtype]]
Kind = tuple[Rule, Layout, torch.dtype]


def _buckets(groups: Sequence[PlannedGroup]) -> list[Bucket]:
    """Parameters that the optimizer works on together, in its order, as `stepwell.batching` has it."""
    found: defaultdict[Any, Bucket] = defaultdict(list)
    for group in groups:
        for member in group.members:
            shape, dtype = tuple(member.parameter.shape), member.parameter.dtype
            rule = group.rule.fit(shape)
            found[bucket_key(rule, shape, dtype, group.storage)].append((rule, shape, dtype))
    return list(found.values())


def _matrices(bucket: Bucket, spread: Spread) -> tuple[int, int]:
    """Bytes of the messages that bring the parts of matrices to the ranks that work on them, and back."""
    cut = [(rule, layout, dtype) for rule, shape, dtype in bucket if (layout := spread.layout(shape)) is not None]
    shared = [each for each in cut if each[0].acts_on == "matrices" and not whole_here(*each[:2])]
    owners = shared_out([rule.working_shape(layout.shape) for rule, layout, _ in shared], spread.shards)
    owned: defaultdict[Any, NDArray[np.int64]] = defaultdict(lambda: np.zeros(spread.shards, np.int64))
    for kind, owner in zip(shared, owners, strict=True):
        owned[kind][owner] += 1
    return _busiest(owned, "read"), _busiest(owned, "written")


def _busiest(owned: Mapping[tuple[Rule, Layout, torch.dtype], NDArray[np.int64]], way: Way) -> int:
    """The most bytes that a rank sends or gets, where each rank owns so many matrices of each kind."""
    parts, wholes = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for (rule, layout, dtype), counts in owned.items():
        for number in getattr(exchanged(rule), way):
            at = layout_of_number(rule, number, layout)
            if at.cuts or way == "written":
                held = _held(rule, number, at, dtype, len(counts))
                parts = parts + held * (counts.sum() - counts)  # of what others own
                wholes = wholes + counts * (held.sum() - held)  # of what it owns, without its own part
    return int(max(parts.max(), wholes.max()))


def _held(rule: Rule, number: str, layout: Layout, dtype: torch.dtype, ranks: int) -> NDArray[np.int64]:
    """Bytes of what each rank holds of a number."""
    each = dtype_of_number(rule, number, dtype).itemsize
    return np.array([each * math.prod(part_shape(layout, ranks, rank)) for rank in range(ranks)], np.int64)


def _sums(bucket: Bucket) -> int:
    """Bytes of what a rule that reduces adds up over the ranks, in the dtype that it computes in."""
    size = 0
    for rule, shape, dtype in bucket:
        if rule.acts_on == "tensors" and shape:
            seen_as = rule.working_shape(shape)
            cut = {1: "row_total", 2: "column_total"}.get(len(seen_as))
            for reduction in _reductions(rule):
                over_all = reduction.operation == "total" and reduction.arguments[0].level is not Level.COLUMN
                many = 1 if over_all else seen_as[-1] ** (len(seen_as) - 1) if reduction.operation == cut else 0
                size += many * torch.promote_types(dtype, torch.float32).itemsize
    return size


def _reductions(rule: Rule) -> list[Expression]:
    """The reductions in a rule's arithmetic: over elements, and over what was made of them row by row."""
    from stepwell.engines.fused.traces import trace

    program = trace(rule)
    loops = [loop for finish in program.finishes if finish is not None for loop in finish.loops]
    return [*program.reductions, *(total for loop in loops for total in loop.totals)]


def _measures(bucket: Bucket) -> int:
    """Bytes of the numbers that a rule adds up over all parameters before it updates any."""
    from stepwell.engines.fused.traces import trace

    rule, *_ = bucket[0]
    return 0 if type(rule).measure is Rule.measure else 8 * len(trace(rule, "measure").totals)


def _new_weights(groups: Sequence[PlannedGroup], spread: Spread) -> int:
    """Bytes of the part of the weights that the first rank has worked out, to whose size all others are filled up."""
    return sum(
        count * math.prod(spread.worked_on(shape)) * dtype.itemsize
        for (_, shape, dtype, _), count in alike(groups).items()
        if shape
    )
