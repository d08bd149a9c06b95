"""What an update may be asked to add up on its way: how far the weights move, how large they are, and the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from stepwell.engines.batch import Batch

# Of each, Σ x² over a parameter's elements: what the weights move by, the weights before it, and the gradient as the
# rule gets it, unscaled and clipped.
OBSERVED = ("update", "weight", "gradient")
# And of the gradient for each of its rows.
UNITS = "units"
# Rows that are shorter are not worth a loop of their own, and longer ones not worth waiting for: no row is cut.
_SHORTEST, _LONGEST = 32, 65_536
# A large tensor without such rows is seen in rows of so many numbers, of which one divides its size.
_FOLDS = range(256, 4_096)


def squares_of(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """Σ x² of every tensor: a row for each place in the columns, which have the same length, and a column for each."""
    device = columns[0][0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
    norms = [torch.stack(torch._foreach_norm(list(column), 2, dtype=dtype)) for column in columns]
    return torch.stack(norms, dim=1).square()


def seen_in_rows(weight: Tensor, block: int) -> tuple[int, int] | None:
    """The shape in which a program sees a tensor if it adds up over rows: a row is a unit, what feeds one output.

    Where units lie scattered in memory, are short or very long, or end within a block that is stored together (of
    `block` numbers), rows have another length. None where there is no such length.
    """
    length, size = math.prod(weight.shape[1:]), weight.numel()
    if _in_a_run(weight) and _SHORTEST <= length <= _LONGEST and length % block == 0:
        return weight.shape[0], length
    if size <= _LONGEST:
        return min(1, size), max(1, size)
    fold = next((fold for fold in _FOLDS if size % fold == 0 and fold % block == 0), None)
    return None if fold is None else (size // fold, fold)


def units_in_rows(weight: Tensor, shape: Sequence[int]) -> bool:
    """Whether each unit of the tensor is some rows of it in the shape in which a program sees it."""
    if weight.ndim < 2 or weight.numel() == 0:
        return True
    return _in_a_run(weight) and len(shape) > 1 and math.prod(shape[:-1]) % weight.shape[0] == 0


def _in_a_run(weight: Tensor) -> bool:
    """Whether the numbers of each unit lie side by side, and unit beside unit; the tensor has no gaps."""
    return weight.ndim > 1 and (weight.shape[0] < 2 or weight.stride(0) == math.prod(weight.shape[1:]))


def sums_of_units(weight: Tensor, rows: Tensor) -> Tensor | None:
    """The sums over each unit from those over each row; None for a tensor that has no units."""
    if weight.ndim < 2:
        return None
    return rows.reshape(weight.shape[0], len(rows) // max(weight.shape[0], 1)).sum(1)


def add_up_units(batch: Batch, members: Iterable[int]) -> None:
    """Σ g² of each unit of these parameters, from their gradients, for `units_added_up`."""
    kept = batch.prepared.setdefault(UNITS, {})
    factor = batch.gradient_factor if batch.verdict is None else batch.gradient_factor * batch.verdict[0]
    for index in members:
        gradient = batch.gradients[index]
        if gradient.ndim > 1:
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            over = tuple(range(1, gradient.ndim))
            found = (torch.linalg.vector_norm(gradient, dim=over, dtype=dtype) * factor).square()
            if index not in kept:
                kept[index] = torch.zeros_like(found)
            kept[index].copy_(batch.unless_left_out(found, kept[index]))


def units_added_up(batch: Batch) -> list[Tensor | None]:
    """What `add_up_units` has found, for each parameter; None where nothing was added up."""
    kept = batch.prepared.get(UNITS, {})
    return [kept.get(index) for index in range(len(batch.weights))]
