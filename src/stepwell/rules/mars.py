"""MARS: AdamW on gradients whose variance has been reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, norm, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class MARS(Rule):
    """AdamW on corrected gradients (Yuan et al. 2024, arXiv:2411.10438, MARS-AdamW in its approximate form).

        cₜ = gₜ + γ·β₁/(1 − β₁)·(gₜ − gₜ₋₁)                (g₀ = g₁)
        c̃ₜ = cₜ / max(1, ‖cₜ‖)                            over each whole parameter
        mₜ = β₁·mₜ₋₁ + (1 − β₁)·c̃ₜ          vₜ = β₂·vₜ₋₁ + (1 − β₂)·c̃ₜ²
        θₜ = θₜ₋₁ − η·(m̂ₜ / (√v̂ₜ + ε) + λ·θₜ₋₁)

    gₜ₋₁ is the gradient of the step before, on its own batch; the exact form would ask for it on this batch, at the
    price of a second backward pass. The paper gives vectors and embeddings to AdamW: put them into such a group.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        gamma: γ, how much is corrected, at least 0; at 0 it is AdamW on clipped gradients.
        decay: "decoupled" (the paper's), or another kind.
    """

    lr: NonNegative = 3e-3
    betas: tuple[Fraction, Fraction] = (0.95, 0.99)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    gamma: NonNegative = 0.025
    decay: Decay = "decoupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", positive=True), "last_grad")
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        difference = where(s.step > 1, g - s.last_grad, 0.0)
        corrected = g + h.gamma * beta1 / (1 - beta1) * difference
        corrected = corrected / maximum(norm(corrected), 1.0)
        exp_avg = lerp(s.exp_avg, corrected, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(corrected)
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        step = exp_avg / (1 - beta1**s.step) / (root + h.eps)
        return step, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "last_grad": g}
