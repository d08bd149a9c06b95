"""What an update may be asked to add up on its way: how far the weights move, how large they are, and the gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Of each, Σ x² over a parameter's elements: what the weights move by, the weights before it, and the gradient as the
# rule gets it, unscaled and clipped.
OBSERVED = ("update", "weight", "gradient")


def squares_of(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """Σ x² of every tensor: a row for each place in the columns, which have the same length, and a column for each."""
    device = columns[0][0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
    norms = [torch.stack(torch._foreach_norm(list(column), 2, dtype=dtype)) for column in columns]
    return torch.stack(norms, dim=1).square()
