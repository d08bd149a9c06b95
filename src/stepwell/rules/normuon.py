"""NorMuon: Muon whose rows are normalised by their own second moment."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, row_mean, sqrt, square
from stepwell.algebra.matrices import frobenius
from stepwell.rules.hyper import Fraction, NonNegative, Rounds
from stepwell.rules.matrix_rule import by_blocks
from stepwell.rules.muon import Adjustment, OrthogonalizedMomentum, rate_adjustment
from stepwell.rules.rule import Shape, Slot, row_wise


@dataclass(frozen=True, kw_only=True)
class NorMuon(OrthogonalizedMomentum):
    """Orthogonalised momentum with one second moment a row (Li et al. 2025, arXiv:2510.05491, Alg. 1).

        Bₜ = β₁·Bₜ₋₁ + (1 − β₁)·Gₜ,   Oₜ = NS(Bₜ)
        vₜ = β₂·vₜ₋₁ + (1 − β₂)·row_mean(Oₜ²),   Nₜ = Oₜ / (√vₜ + ε)
        θₜ = (1 − η·λ)·θₜ₋₁ − η·0.2·√(rows·cols)·Nₜ / ‖Nₜ‖

    A neuron whose rows of Oₜ stay long is shortened, so that all neurons move alike.

    Args:
        lr: learning rate η per step, at least 0.
        weight_decay: λ, at least 0, decoupled.
        momentum: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        nesterov: mix the gradient into the momentum once more, as Muon and the authors' code do.
        ns_coefficients: (a, b, c) of the Newton–Schulz iteration.
        eps: ε, and the least norm that a matrix is divided by.
        ns_steps: iterations, from 1 to 100.
        adjust_lr_fn: "match_rms_adamw" (also None) gives the update the RMS 0.2, as the paper does; "original" keeps
            the norm of Oₜ and multiplies it by √max(1, rows/cols), as the authors' code does.
        polar_express, split, split_dim, conv1d: as for `Muon`; a row has a second moment in each block of columns.
    """

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: Fraction = 0.95
    beta2: Fraction = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: NonNegative = 1e-10
    ns_steps: Rounds = 5
    adjust_lr_fn: Adjustment | None = None

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        blocks = self.split if isinstance(self.split, int) else len(self.split)
        shape = row_wise if self.split_dim == -2 else _row_wise_in(blocks)
        return ("momentum_buffer", Slot("second_momentum_buffer", shape=shape))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        buffer, update = self.mixed_momentum(g, s, h)
        orthogonal = by_blocks(h.split, h.split_dim, lambda block: self.orthogonal(block, h), update)
        means = by_blocks(h.split, h.split_dim, lambda block: row_mean(square(block)), orthogonal)
        moment = lerp(s.second_momentum_buffer, means, 1 - h.beta2)

        def step(orthogonal: Any, moment: Any) -> Any:
            normalized = orthogonal / (sqrt(moment) + h.eps)
            length = maximum(frobenius(normalized), h.eps)
            if h.adjust_lr_fn == "original":
                return rate_adjustment(orthogonal, "original") * frobenius(orthogonal) / length * normalized
            rows, cols = orthogonal.shape[-2:]
            return 0.2 * math.sqrt(rows * cols) / length * normalized

        slots = {"momentum_buffer": buffer, "second_momentum_buffer": moment}
        return by_blocks(h.split, h.split_dim, step, orthogonal, moment), slots


@functools.cache
def _row_wise_in(blocks: int) -> Callable[[Shape], Shape]:
    """The shape of one number for each row of each block of columns."""
    return lambda shape: (*shape[:-1], blocks)
