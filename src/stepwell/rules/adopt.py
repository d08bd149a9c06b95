"""ADOPT: Adam that converges with any β₂."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, minimum, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class ADOPT(Rule):
    """Adam in another order: divide, then average (Taniguchi et al. 2024, arXiv:2411.02853, Alg. 2).

        v₀ = g₀²
        mₜ = β₁·mₜ₋₁ + (1 − β₁)·clip(gₜ / max(√vₜ₋₁, ε), ±cₜ),   cₜ = t^¼
        θₜ = θₜ₋₁ − η·mₜ
        vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²

    A gradient is divided by the second moment of those before it. The first gradient is the paper's g₀: it fills v and
    moves nothing, nor do weights decay in that step.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, the least that a gradient is divided by, at least 0.
        weight_decay: λ, at least 0.
        clip_exp: the power of t in cₜ, at least 0; None leaves the clipping out (the paper's Alg. 1).
        decay: "coupled" (as the authors'), "decoupled", or another kind.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.9999)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0
    clip_exp: NonNegative | None = 0.25
    decay: Decay = "coupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        normed = g / maximum(sqrt(s.exp_avg_sq), h.eps)
        if h.clip_exp is not None:
            bound = (s.step - 1) ** h.clip_exp
            normed = minimum(maximum(normed, -bound), bound)
        later = s.step > 1
        exp_avg = where(later, lerp(s.exp_avg, normed, 1 - beta1), s.exp_avg)
        exp_avg_sq = where(later, beta2 * s.exp_avg_sq + (1 - beta2) * square(g), square(g))
        return exp_avg, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        moved, slots = super().update(p, g, s, h)
        return where(s.step > 1, moved, p), slots
