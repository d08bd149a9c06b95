"""Shampoo: a preconditioner for each side of a matrix."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra.matrices import either, inverse_root
from stepwell.rules.hyper import Count, NonNegative, Positive, Range, Switch
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.preconditioning import is_square, outer_square, square_or_diagonal, times
from stepwell.rules.rule import Decay, Shape, Slot


@dataclass(frozen=True, kw_only=True)
class Shampoo(MatrixRule):
    """Full-matrix Adagrad, factored by sides (Gupta et al. 2018, arXiv:1802.09568, Alg. 1).

        Lₜ = Lₜ₋₁ + Gₜ·Gₜᵀ,   Rₜ = Rₜ₋₁ + Gₜᵀ·Gₜ
        θₜ = θₜ₋₁ − η·(Lₜ + ε·I)^(−1/4)·Gₜ·(Rₜ + ε·I)^(−1/4)

    Args:
        lr: learning rate η per step, at least 0.
        momentum: μ in [0, 1) of a heavy ball over the preconditioned gradients; 0 keeps no slot.
        weight_decay: λ, at least 0.
        eps: ε, above 0.
        beta2: 1 adds up, as in the paper; below 1, L and R are averages with this memory.
        precondition_frequency: steps from one working out of the roots to the next.
        max_precond_dim: a side that is longer has the diagonal of its matrix alone (the paper's sec. 5).
        decay: "coupled", or another kind.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack.
        spread_refresh: after the first step, work out the root of each side of each matrix at a step of its own within
            `precondition_frequency`, so that no step has all of that work. (In JAX all have the same turn.)
    """

    lr: NonNegative = 1e-1
    momentum: Annotated[float, Range(low=0, high=1, open_high=True), Switch()] = 0.0
    weight_decay: NonNegative = 0.0
    eps: Positive = 1e-4
    beta2: Annotated[float, Range(low=0, high=1)] = 1.0
    precondition_frequency: Count = 1
    max_precond_dim: Count = 8192
    decay: Decay = "coupled"
    spread_refresh: bool = False

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        shape = functools.partial(square_or_diagonal, limit=self.max_precond_dim)
        rows, columns = functools.partial(shape, side="rows"), functools.partial(shape, side="columns")
        factors = (Slot("row_factor", shape=rows, wide=True), Slot("column_factor", shape=columns, wide=True))
        roots = (Slot("row_root", shape=rows, wide=True), Slot("column_root", shape=columns, wide=True))
        kept: tuple[Slot, ...] = roots if self.precondition_frequency > 1 else ()
        if kept and self.spread_refresh:
            turn = functools.partial(Slot, scalar=True, every=self.precondition_frequency)
            kept += (turn("row_turn", work=functools.partial(rooting_work, shape_of=rows)),)
            kept += (turn("column_turn", work=functools.partial(rooting_work, shape_of=columns)),)
        return (*factors, *kept, "momentum_buffer") if self.momentum else (*factors, *kept)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        share = 1.0 if h.beta2 == 1 else 1 - h.beta2
        row_factor = h.beta2 * s.row_factor + share * outer_square(g, s.row_factor)
        column_factor = h.beta2 * s.column_factor + share * outer_square(g.mT, s.column_factor)
        slots = {"row_factor": row_factor, "column_factor": column_factor}

        def new_roots() -> tuple[Any, Any]:
            return root_of(row_factor, h.eps), root_of(column_factor, h.eps)

        def later_roots() -> tuple[Any, Any]:
            row_due, column_due = (
                (s.step - 1 + turn) % h.precondition_frequency == 0 for turn in (s.row_turn, s.column_turn)
            )
            return (
                either(row_due, lambda: root_of(row_factor, h.eps), lambda: s.row_root),
                either(column_due, lambda: root_of(column_factor, h.eps), lambda: s.column_root),
            )

        if h.precondition_frequency == 1:
            row_root, column_root = new_roots()
        else:
            if h.spread_refresh:
                row_root, column_root = either(s.step == 1, new_roots, later_roots)
            else:
                is_due = (s.step - 1) % h.precondition_frequency == 0
                row_root, column_root = either(is_due, new_roots, lambda: (s.row_root, s.column_root))
            slots |= {"row_root": row_root, "column_root": column_root}
        direction = times(column_root, times(row_root, g).mT).mT
        if h.momentum:
            direction = slots["momentum_buffer"] = h.momentum * s.momentum_buffer + direction
        return direction, slots


def root_of(factor: Any, eps: float) -> Any:
    """(factor + ε·I)^(−1/4), of a matrix or of a diagonal."""
    return inverse_root(factor, 4, eps) if is_square(factor) else (factor + eps) ** -0.25


def rooting_work(shape: Shape, *, shape_of: Callable[[Shape], Shape]) -> float:
    """About how many multiplications the root of one side takes: n³ for a matrix, n for a diagonal."""
    *stack, n, m = shape_of(shape)
    return float(math.prod(stack) * n * m * m)
