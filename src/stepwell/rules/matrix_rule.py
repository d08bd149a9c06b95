"""What rules of whole matrices share: which parameters they see as matrices, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from stepwell.algebra.matrices import join_rows
from stepwell.rules.rule import Decay, Rule, Shape


@dataclass(frozen=True, kw_only=True)
class MatrixRule(Rule, abstract=True):
    """A rule of whole matrices (…, rows, cols).

    A 2-D parameter is a matrix. A 3-D parameter is a stack of matrices, as of experts, each worked on by itself. What
    has four or more dimensions is the kernel of a convolution (out, in, height, width): the matrix (out,
    in·height·width) that maps a patch to its outputs.

    Args:
        decay: the kind of weight decay; the rule leaves it to the base class.
        conv1d: a 3-D parameter is the kernel (out, in, width) of a 1-d convolution, no stack.
    """

    decay: Decay = "decoupled"
    conv1d: bool = False

    acts_on = "matrices"

    def is_kernel(self, shape: Shape) -> bool:
        """Whether a parameter of this shape is the kernel of a convolution."""
        return len(shape) > 3 or (len(shape) == 3 and self.conv1d)

    def working_shape(self, shape: Shape) -> Shape:
        return (shape[0], math.prod(shape[1:])) if self.is_kernel(shape) else shape


def by_row_blocks(split: int | tuple[int, ...], function: Callable[..., Any], *matrices: Any) -> Any:
    """The function of each block of rows of the matrices (…, rows, cols), put together again.

    `split` is a number of equal blocks, which the function then gets as a stack (…, blocks, rows/blocks, cols), or the
    number of rows of each.
    """
    if split == 1:
        return function(*matrices)
    if isinstance(split, int):
        stacks = [x.reshape(*x.shape[:-2], split, x.shape[-2] // split, x.shape[-1]) for x in matrices]
        result = function(*stacks)
        *stack, blocks, rows, cols = result.shape
        return result.reshape(*stack, blocks * rows, cols)
    bounds = pairwise((0, *accumulate(split)))
    return join_rows([function(*(x[..., start:end, :] for x in matrices)) for start, end in bounds])


def check_split(split: int | tuple[int, ...], shape: Shape, name: str = "split") -> None:
    """Raise ValueError where the rows of a matrix of this shape cannot be split as the hyper-parameter `name` says."""
    if isinstance(split, int) and shape[-2] % split:
        raise ValueError(f"{name}={split} does not divide the {shape[-2]} rows of a matrix of shape {shape}")
    if not isinstance(split, int) and sum(split) != shape[-2]:
        raise ValueError(
            f"{name}={split} adds up to {sum(split)} rows, not the {shape[-2]} of a matrix of shape {shape}"
        )
