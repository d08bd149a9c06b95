"""What rules of whole matrices share: which parameters they see as matrices, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

from stepwell.algebra.matrices import join_rows, move_axis
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


@dataclass(frozen=True, kw_only=True)
class OneMatrixRule(MatrixRule, abstract=True):
    """A rule that needs a single matrix whole, and before and after it acts on elements.

    Where parameters lie on many ranks, that matrix alone goes to one of them and comes back, in place of the weights,
    the gradient and the state: `mix` and `move` work on the parts that each rank holds.
    """

    rough = False
    """Whether the last digits of that matrix do not count: then it may be stored in the dtype that it is multiplied in
    (`stepwell.algebra.matrices.for_rough_products`)."""

    def mixed(self, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """The matrix that is needed whole, element by element, and the new values of the slots."""
        raise NotImplementedError

    def turned(self, x: Any, h: Any) -> Any:
        """What the whole matrix becomes."""
        raise NotImplementedError

    def aimed(self, p: Any, turned: Any, h: Any) -> Any:
        """The direction, element by element."""
        return turned

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        x, slots = self.mixed(g, s, h)
        return self.aimed(p, self.turned(x, h), h), slots

    # The same step in three: each gives what the next gets in place of the weights, or of the gradient.

    def mix(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """The matrix that is needed whole, and the new values of the slots."""
        return self.mixed(self.regularised(p, g, h), s, h)

    def turn(self, x: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """What the whole matrix becomes."""
        return self.turned(x, h), {}

    def move(self, p: Any, turned: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """The weights after the step."""
        return self.moved(p, self.aimed(p, turned, h), s, h), {}


def steps_in_three(rule: type[Rule]) -> bool:
    """Whether `mix`, `turn` and `move` are the rule's update: no wrapper, and no rule made of it, has changed that."""
    return issubclass(rule, OneMatrixRule) and rule.direction is OneMatrixRule.direction and rule.update is Rule.update


SplitDim = Literal[-2, -1]
"""The dimension along which the blocks of a matrix lie side by side: its rows, or its columns."""


def by_blocks(split: int | tuple[int, ...], dim: SplitDim, function: Callable[..., Any], *matrices: Any) -> Any:
    """The function of each block of the matrices (…, rows, cols), put together again.

    Args:
        split: a number of equal blocks, which the function then gets as a stack (…, blocks, rows, cols), or the size of
            each.
        dim: whether blocks of rows are meant, or of columns.
        function: of as many blocks as there are matrices.
        matrices: one that has a single row or column for each block is cut into these.
    """
    if split == 1:
        return function(*matrices)
    if isinstance(split, int):
        return _joined(function(*(_stack(x, split, dim) for x in matrices)), dim)
    blocks = zip(*(_cut(x, split, dim) for x in matrices), strict=True)
    results = [function(*block) for block in blocks]
    return join_rows(results) if dim == -2 else join_rows([result.mT for result in results]).mT


def _stack(x: Any, blocks: int, dim: SplitDim) -> Any:
    """Equal blocks of (…, rows, cols) as a stack (…, blocks, rows, cols)."""
    *stack, rows, cols = x.shape
    if dim == -2:
        return x.reshape(*stack, blocks, rows // blocks, cols)
    return move_axis(x.reshape(*stack, rows, blocks, cols // blocks), -2, -3)


def _joined(x: Any, dim: SplitDim) -> Any:
    """What `_stack` took apart."""
    *stack, blocks, rows, cols = x.shape
    if dim == -2:
        return x.reshape(*stack, blocks * rows, cols)
    return move_axis(x, -3, -2).reshape(*stack, rows, blocks * cols)


def _cut(x: Any, sizes: tuple[int, ...], dim: SplitDim) -> list[Any]:
    sizes = sizes if x.shape[dim] == sum(sizes) else (1,) * len(sizes)
    bounds = pairwise((0, *accumulate(sizes)))
    return [x[..., start:end, :] if dim == -2 else x[..., start:end] for start, end in bounds]


def check_split(split: int | tuple[int, ...], shape: Shape, dim: SplitDim = -2, name: str = "split") -> None:
    """Raise ValueError where a matrix of this shape cannot be split as the hyper-parameter `name` says."""
    size, what = shape[dim], "rows" if dim == -2 else "columns"
    if isinstance(split, int) and size % split:
        raise ValueError(f"{name}={split} does not divide the {size} {what} of a matrix of shape {shape}")
    if not isinstance(split, int) and sum(split) != size:
        raise ValueError(f"{name}={split} adds up to {sum(split)} {what}, not the {size} of a matrix of shape {shape}")
