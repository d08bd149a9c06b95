"""AdaMuon: Muon whose elements are normalised by their own second moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, sign, sqrt, square
from stepwell.algebra.matrices import frobenius
from stepwell.rules.hyper import Fraction, NonNegative, Rounds
from stepwell.rules.matrix_rule import by_blocks
from stepwell.rules.muon import OrthogonalizedMomentum
from stepwell.rules.rule import Slot


@dataclass(frozen=True, kw_only=True)
class AdaMuon(OrthogonalizedMomentum):
    """Orthogonalised signs of a momentum, with a second moment (Si et al. 2025, arXiv:2507.11005, Alg. 1).

        Bₜ = μ·Bₜ₋₁ + (1 − μ)·Gₜ,   Oₜ = NS(sign(Bₜ))
        Vₜ = β₂·Vₜ₋₁ + (1 − β₂)·Oₜ²,   Nₜ = Oₜ / (√Vₜ + ε)
        θₜ = (1 − η·λ)·θₜ₋₁ − η·0.2·√(rows·cols)·Nₜ / ‖Nₜ‖

    The update has the RMS 0.2, about AdamW's, whatever the matrix. V needs no bias correction: it is one factor for all
    elements, which the norm takes away again.

    Args:
        lr: learning rate η per step, at least 0.
        weight_decay: λ, at least 0, decoupled.
        momentum: μ in [0, 1).
        beta2: β₂ in [0, 1); the paper takes μ.
        nesterov: mix the gradient into the momentum once more, as in the authors' code, not in the paper.
        ns_coefficients: (a, b, c) of the Newton–Schulz iteration.
        eps: ε, and the least norm that a matrix is divided by.
        ns_steps: iterations, from 1 to 100.
        sign_stabilized: take the signs of the momentum; without them, as in the paper's first version, the momentum.
        polar_express, split, split_dim, conv1d: as for `Muon`.
    """

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: Fraction = 0.95
    beta2: Fraction = 0.95
    nesterov: bool = False
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: NonNegative = 1e-8
    ns_steps: Rounds = 5
    sign_stabilized: bool = True

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return ("momentum_buffer", Slot("exp_avg_sq", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        buffer, update = self.mixed_momentum(g, s, h)
        if h.sign_stabilized:
            update = sign(update)
        orthogonal = by_blocks(h.split, h.split_dim, lambda block: self.orthogonal(block, h), update)
        moment = lerp(s.exp_avg_sq, square(orthogonal), 1 - h.beta2)

        def step(normalized: Any) -> Any:
            rows, cols = normalized.shape[-2:]
            return normalized * (0.2 * math.sqrt(rows * cols) / maximum(frobenius(normalized), h.eps))

        normalized = orthogonal / (sqrt(moment) + h.eps)
        return by_blocks(h.split, h.split_dim, step, normalized), {"momentum_buffer": buffer, "exp_avg_sq": moment}
