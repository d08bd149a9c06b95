"""RAdam: Adam that waits until it knows the gradients' variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


def rectification(beta2: Any, step: Any, least: float) -> tuple[Any, Any]:
    """Whether the variance can be trusted at this step, and the factor that rectifies it then (else 0).

    ρ∞ = 2/(1 − β₂) − 1,   ρₜ = ρ∞ − 2·t·β₂ᵗ/(1 − β₂ᵗ)
    rₜ = √((ρₜ − 4)·(ρₜ − 2)·ρ∞ / ((ρ∞ − 4)·(ρ∞ − 2)·ρₜ))   where ρₜ > least, which is at least 4
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    known = length > least
    numerator = where(known, (length - 4) * (length - 2) * longest, 0.0)
    return known, sqrt(numerator / where(known, (longest - 4) * (longest - 2) * length, 1.0))


@dataclass(frozen=True, kw_only=True)
class RAdam(Rule):
    """Adam with a rectified variance (Liu et al. 2020, arXiv:1908.03265, Alg. 2).

        θₜ = θₜ₋₁ − η·m̂ₜ·rₜ·√(1 − β₂ᵗ) / (√vₜ + ε)     once ρₜ > 5
        θₜ = θₜ₋₁ − η·m̂ₜ                               before

    m, v and their corrections are Adam's; rₜ and ρₜ are those of `rectification`. As in torch, the threshold is 5 (the
    paper's text has 4) and ε is added to the uncorrected root.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1). A β₂ up to 2/3 never leaves the first phase.
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        decay: "coupled" (as torch's), "decoupled" (torch's `decoupled_weight_decay=True`), or another kind.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decay: Decay = "coupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        known, rectified = rectification(beta2, s.step, 5.0)
        adaptive = rectified * sqrt(1 - beta2**s.step) / (sqrt(exp_avg_sq) + h.eps)
        step = exp_avg / (1 - beta1**s.step) * where(known, adaptive, 1.0)
        return step, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
