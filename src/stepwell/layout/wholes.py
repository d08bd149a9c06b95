"""Weights that every rank has whole, of which each has worked out a part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepwell.layout.parts import Layout, piece


def make_whole(tensors: Sequence[Tensor], layouts: Sequence[Layout]) -> None:
    """Bring each rank's part of each tensor to all others, in one message. The tensors share a dtype and a mesh."""
    cut = [(tensor, layout) for tensor, layout in zip(tensors, layouts, strict=True) if layout.cuts]
    if not cut:
        return
    group = cut[0][1].groups[0]
    ranks = group.size()
    parts = [[tensor.narrow(0, *piece(len(tensor), ranks, rank)) for tensor, _ in cut] for rank in range(ranks)]
    longest = max(sum(part.numel() for part in of_rank) for of_rank in parts)
    message = tensors[0].new_zeros(longest)
    mine = torch.cat([part.reshape(-1) for part in parts[group.rank()]])
    message[: len(mine)] = mine
    arrived = [torch.empty_like(message) for _ in range(ranks)]
    torch.distributed.all_gather(arrived, message, group=group)
    for rank, from_rank in enumerate(arrived):
        if rank != group.rank():
            lengths = [part.numel() for part in parts[rank]]
            for part, numbers in zip(parts[rank], torch.split(from_rank[: sum(lengths)], lengths), strict=True):
                part.copy_(numbers.reshape(part.shape))
