"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sqrt, square
from stepwell.algebra.matrices import (
    column_total,
    descending,
    eigenbasis,
    either,
    filled_like,
    frobenius,
    orthonormal_columns,
    take_columns,
    take_rows,
)
from stepwell.rules.adam import Adam
from stepwell.rules.hyper import Count, Fraction, NonNegative
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.preconditioning import square_factor
from stepwell.rules.rule import Rule, Shape, Slot


@dataclass(frozen=True, kw_only=True)
class SOAP(MatrixRule):
    """Adam in a slowly turning basis (Vyas et al. 2024, arXiv:2409.11321, Alg. 3).

        L = β·L + (1 − β)·GGᵀ,   R = β·R + (1 − β)·GᵀG        their eigenvectors: Q_L, Q_R
        G′ = Q_Lᵀ·G·Q_R,   M′ = β₁·M′ + (1 − β₁)·G′,   V = β₂·V + (1 − β₂)·G′²
        θ = θ − η·Q_L·(M̂′ / (√V̂ + ε))·Q_Rᵀ

    Every `precondition_frequency` steps one power iteration and a QR decomposition turn the bases, M′ turns with them,
    and V is sorted as the eigenvalues are. The first gradient only makes the bases: its step is left out, and Adam's
    count begins with the second. Vectors and numbers are updated by Adam with the same hyper-parameters, from the first
    gradient on.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        shampoo_beta: β in [0, 1), or None for β₂.
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.
        precondition_frequency: steps from one turn of the bases to the next.
        max_precond_dim: a side that is longer keeps its own basis (the identity).
        one_sided: turn only the shorter side, at half the cost or less (sec. 6.2.1 of the paper).
        normalize_grads: divide each step by its root mean square.
        correct_bias: Adam's bias correction.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack. Kernels are
            merged to (out, in·positions).
    """

    lr: NonNegative = 3e-3
    betas: tuple[Fraction, Fraction] = (0.95, 0.95)
    shampoo_beta: Fraction | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2
    precondition_frequency: Count = 10
    max_precond_dim: Count = 10000
    one_sided: bool = False
    normalize_grads: bool = False
    correct_bias: bool = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        shape = functools.partial(square_factor, limit=self.max_precond_dim, one_sided=self.one_sided)
        rows, columns = functools.partial(shape, side="rows"), functools.partial(shape, side="columns")
        return (
            "exp_avg",
            "exp_avg_sq",
            Slot("row_factor", shape=rows, wide=True),
            Slot("column_factor", shape=columns, wide=True),
            Slot("row_basis", shape=rows, wide=True),
            Slot("column_basis", shape=columns, wide=True),
        )

    def fit(self, shape: Shape) -> Rule:
        if len(shape) > 1:
            return self
        shared = {name: value for name, value in self.values().items() if name in Adam.field_names()}
        return Adam(**shared)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta = h.betas[1] if h.shampoo_beta is None else h.shampoo_beta
        row_factor = lerp(s.row_factor, g @ g.mT, 1 - beta) if s.row_factor.shape[-1] else s.row_factor
        column_factor = lerp(s.column_factor, g.mT @ g, 1 - beta) if s.column_factor.shape[-1] else s.column_factor
        factors = {"row_factor": row_factor, "column_factor": column_factor}

        def first() -> tuple[Any, dict[str, Any]]:
            moments = {"exp_avg": s.exp_avg, "exp_avg_sq": s.exp_avg_sq}
            bases = {"row_basis": eigenbasis(row_factor), "column_basis": eigenbasis(column_factor)}
            return filled_like(g, 0.0), {**moments, **bases}

        def later() -> tuple[Any, dict[str, Any]]:
            step = s.step - 1
            direction, moments = self.turned_adam(p, g, step, s, h)
            bases = {"row_basis": s.row_basis, "column_basis": s.column_basis}
            return direction, either(
                step % h.precondition_frequency == 0,
                lambda: next_bases(row_factor, column_factor, **moments, **bases),
                lambda: {**moments, **bases},
            )

        direction, slots = either(s.step == 1, first, later)
        return direction, {**slots, **factors}

    def turned_adam(self, p: Any, g: Any, step: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """Adam's direction, worked out in the bases and turned back, and the moments in the bases."""
        beta1, beta2 = h.betas
        projected = turned(g, s.row_basis, s.column_basis)
        exp_avg = lerp(s.exp_avg, projected, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(projected)
        direction = turned(exp_avg / (sqrt(exp_avg_sq) + h.eps), s.row_basis.mT, s.column_basis.mT)
        if h.correct_bias:
            direction = direction * (sqrt(1 - beta2**step) / (1 - beta1**step))
        if h.normalize_grads:
            rows, cols = p.shape[-2:]
            direction = direction / (frobenius(direction) / math.sqrt(max(rows * cols, 1)) + h.eps)
        return direction, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}


def turned(x: Any, row_basis: Any, column_basis: Any) -> Any:
    """Q_Lᵀ·x·Q_R; a basis of size 0 stands for the identity."""
    if row_basis.shape[-1]:
        x = row_basis.mT @ x
    return x @ column_basis if column_basis.shape[-1] else x


def next_bases(
    row_factor: Any, column_factor: Any, exp_avg: Any, exp_avg_sq: Any, row_basis: Any, column_basis: Any
) -> dict[str, Any]:
    """The bases after a step of power iteration, and the moments in them."""
    rows, row_order = next_basis(row_factor, row_basis)
    columns, column_order = next_basis(column_factor, column_basis)
    if row_order is not None:
        exp_avg_sq = take_rows(exp_avg_sq, row_order)
    if column_order is not None:
        exp_avg_sq = take_columns(exp_avg_sq, column_order)
    exp_avg = turned(exp_avg, row_basis.mT @ rows, column_basis.mT @ columns)
    return {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "row_basis": rows, "column_basis": columns}


def next_basis(factor: Any, basis: Any) -> tuple[Any, Any | None]:
    """One step of power iteration towards the eigenvectors of `factor`, and the order of the old ones by eigenvalue."""
    if not basis.shape[-1]:
        return basis, None
    product = factor @ basis
    order = descending(column_total(basis * product)[..., 0, :])
    return orthonormal_columns(take_columns(product, order)), order
