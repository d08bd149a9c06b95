"""StableAdamW: AdamW that takes a shorter step where its second moment is out of date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, mean, sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative, Positive
from stepwell.rules.rule import AnyDecay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class StableAdamW(Rule):
    """AdamW with Adafactor's update clipping (Wortsman et al. 2023, arXiv:2304.13013, Alg. 2).

        β̂ᵢ = βᵢ·(1 − βᵢᵗ⁻¹) / (1 − βᵢᵗ)
        mₜ = β̂₁·mₜ₋₁ + (1 − β̂₁)·gₜ          uₜ = β̂₂·uₜ₋₁ + (1 − β̂₂)·gₜ²
        ηₜ = η / max(1, RMSₜ),   RMSₜ = √mean(gₜ² / max(uₜ, ε²))   over each whole parameter
        θₜ = θₜ₋₁ − ηₜ·(mₜ / (√uₜ + ε) + λ·θₜ₋₁)

    With β̂ in place of β the means need no correction. It makes clipping the gradients unnecessary.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, above 0.
        weight_decay: λ, at least 0.
        decay: "inside" (the paper's: it takes the shortened ηₜ), or another kind, which takes η.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    eps: Positive = 1e-6
    weight_decay: NonNegative = 1e-2
    decay: AnyDecay = "inside"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", positive=True))
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = (beta * (1 - beta ** (s.step - 1)) / (1 - beta**s.step) for beta in h.betas)
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        rms = sqrt(mean(square(g) / maximum(exp_avg_sq, h.eps**2)))
        step = exp_avg / (sqrt(exp_avg_sq) + h.eps)
        if h.decay == "inside":
            step = step + h.weight_decay * p
        return step / maximum(rms, 1.0), {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
