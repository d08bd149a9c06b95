"""Dion: orthonormal updates of low rank, from one power iteration a step."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import sqrt, square, where
from stepwell.algebra.matrices import column_total, orthonormal_columns
from stepwell.rules.hyper import Fraction, NonNegative, Range, Shaping
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.rule import Shape, Slot


@dataclass(frozen=True, kw_only=True)
class Dion(MatrixRule):
    """Distributed orthonormalised updates, on one device (Ahn et al. 2025, arXiv:2504.05295, Alg. 1).

        Bₜ = Mₜ₋₁ + Gₜ,   Pₜ = QR(Bₜ·Qₜ₋₁),   Rₜ = Bₜᵀ·Pₜ
        Mₜ = Bₜ − (1 − μ)·Pₜ·Rₜᵀ
        Qₜ = Rₜ with columns of length 1
        θₜ = (1 − η·λ)·θₜ₋₁ − η·√(rows/cols)·Pₜ·Qₜᵀ

    What the low rank leaves out of an update stays in the momentum: the error is fed back. Q starts with normal
    numbers, the same for every matrix.

    Args:
        lr: learning rate η per step, at least 0.
        mu: μ in [0, 1).
        weight_decay: λ, at least 0, decoupled.
        rank_fraction: the rank of an update, as a share of the smaller side, in (0, 1].
        eps: added to the length of a column.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack.
    """

    lr: NonNegative = 1e-2
    mu: Fraction = 0.95
    weight_decay: NonNegative = 0.01
    rank_fraction: Annotated[float, Range(low=0, high=1, open_low=True), Shaping()] = 1.0
    eps: NonNegative = 1e-8

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        shape = functools.partial(right_factor, rank_fraction=self.rank_fraction)
        return ("momentum_buffer", Slot("right_factor", start="normal", shape=shape, wide=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        rows, cols = p.shape[-2:]
        momentum = s.momentum_buffer + g
        left = orthonormal_columns(momentum @ s.right_factor)
        right = momentum.mT @ left
        length = sqrt(column_total(square(right)))
        unit = right / (length + h.eps)
        direction = math.sqrt(rows / max(cols, 1)) * (left @ unit.mT)
        momentum = momentum - (1 - h.mu) * (left @ right.mT)
        # A column without length would stay so for ever: it waits for a gradient as it was.
        return direction, {"momentum_buffer": momentum, "right_factor": where(length > 0, unit, s.right_factor)}


def right_factor(shape: Shape, *, rank_fraction: float) -> Shape:
    """(…, cols, rank) for a matrix (…, rows, cols)."""
    *stack, rows, cols = shape
    return (*stack, cols, math.ceil(rank_fraction * min(rows, cols)))
