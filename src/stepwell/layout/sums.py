"""Sums over the ranks: every reduction of a rule, of clipping and of a rule's own measures goes through here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.layout.parts import Layout

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def sum_over_ranks(tensors: Sequence[Tensor], groups: Sequence[tuple[ProcessGroup, ...]]) -> list[Tensor]:
    """Each tensor added up over its groups of ranks, one group after the other. Tensors without a group stay.

    All that goes over the same groups goes in one message. Every rank must ask for the same tensors in the same order.
    """
    found = list(tensors)
    together: defaultdict[Any, list[int]] = defaultdict(list)
    for index, (tensor, over) in enumerate(zip(tensors, groups, strict=True)):
        if over:
            together[over, tensor.dtype].append(index)
    for (over, _), members in together.items():
        message = torch.cat([tensors[index].reshape(-1) for index in members])
        for group in over:
            torch.distributed.all_reduce(message, group=group)
        sums = torch.split(message, [tensors[index].numel() for index in members])
        for index, total in zip(members, sums, strict=True):
            found[index] = total.reshape(tensors[index].shape)
    return found


def add_over_ranks(numbers: Iterable[tuple[Layout | None, Mapping[str, float]]]) -> dict[str, float]:
    """Numbers that were added up over the parts of tensors, each with its layout: added up over all parts of all."""
    found: defaultdict[str, float] = defaultdict(float)
    waiting: list[tuple[str, Tensor, Layout]] = []
    for layout, values in numbers:
        for name, value in values.items():
            if layout is None or not layout.cuts:
                found[name] += value
            else:
                waiting.append((name, torch.tensor([value], dtype=torch.float64, device=layout.device), layout))
    sums = sum_over_ranks([value for _, value, _ in waiting], [layout.groups for _, _, layout in waiting])
    for (name, _, _), total in zip(waiting, sums, strict=True):
        found[name] += float(total)
    return dict(found)
