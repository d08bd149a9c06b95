"""Muon: momentum, orthogonalised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import lerp
from stepwell.algebra.matrices import orthogonalized
from stepwell.rules.hyper import Count, Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule


@dataclass(frozen=True, kw_only=True)
class Muon(Rule):
    """Momentum whose singular values are all set near 1 (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

        Bₜ = μ·Bₜ₋₁ + (1 − μ)·Gₜ
        θₜ = (1 − η·λ)·θₜ₋₁ − η·s·NS((1 − μ)·Gₜ + μ·Bₜ)

    NS is the Newton–Schulz iteration (`stepwell.algebra.matrices.orthogonalized`). It takes whole matrices
    (…, rows, cols): hidden layers, not embeddings, heads, or vectors.

    Args:
        lr: learning rate η per step, at least 0.
        weight_decay: λ, at least 0.
        momentum: μ in [0, 1).
        nesterov: mix the gradient into the momentum once more, as in the formula.
        ns_coefficients: (a, b, c) of the iteration.
        eps: the least norm that a matrix is divided by.
        ns_steps: iterations, at least 1.
        adjust_lr_fn: the factor s. "original" (also None) is √max(1, rows/cols), Jordan's; "match_rms_adamw" is
            0.2·√max(rows, cols), so that rate and decay tuned for AdamW serve (Liu et al. 2025, arXiv:2502.16982).
        decay: "decoupled", or "coupled" into the gradient.
    """

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: NonNegative = 1e-7
    ns_steps: Count = 5
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None
    decay: Decay = "decoupled"

    slots = ("momentum_buffer",)
    acts_on = "matrices"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        buffer = lerp(s.momentum_buffer, g, 1 - h.momentum)
        update = lerp(g, buffer, h.momentum) if h.nesterov else buffer
        rows, cols = p.shape[-2:]
        if h.adjust_lr_fn == "match_rms_adamw":
            adjustment = 0.2 * math.sqrt(max(rows, cols))
        else:
            adjustment = math.sqrt(max(1, rows / cols))
        orthogonal = orthogonalized(update, h.ns_coefficients, h.ns_steps, h.eps)
        return adjustment * orthogonal.to(update.dtype), {"momentum_buffer": buffer}
