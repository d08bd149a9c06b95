"""AdEMAMix: Adam with a second, much slower mean of the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import exp, lerp, log, minimum, sqrt, square
from stepwell.rules.hyper import Count, Fraction, NonNegative, OpenFraction
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class AdEMAMix(Rule):
    """Adam with a fast and a slow mean (Pagliardini et al. 2024, arXiv:2409.03137, Alg. 1 and its schedulers).

        m¹ₜ = β₁·m¹ₜ₋₁ + (1 − β₁)·gₜ          m²ₜ = β₃(t)·m²ₜ₋₁ + (1 − β₃(t))·gₜ
        vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
        θₜ = θₜ₋₁ − η·((m̂¹ₜ + α(t)·m²ₜ) / (√v̂ₜ + ε) + λ·θₜ₋₁)

    The slow mean is not corrected. Over their warm-ups α(t) grows linearly from 0, and β₃(t) from β₁ such that the time
    1/ln β in which it forgets grows linearly: 1/ln β₃(t) = (1 − a)/ln β₁ + a/ln β₃ with a = t / warm-up.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂, β₃), β₁ and β₂ in [0, 1), β₃ in (0, 1).
        alpha: α, the weight of the slow mean, at least 0; the paper's runs have 5 to 8, the authors' code 2.
        beta3_warmup: steps in which β₃ is reached, at least 1; None starts there. The paper takes the whole training.
        alpha_warmup: steps in which α is reached, at least 1; None starts there.
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        decay: "decoupled" (the paper's), or another kind.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction, OpenFraction] = (0.9, 0.999, 0.9999)
    alpha: NonNegative = 2.0
    beta3_warmup: Count | None = None
    alpha_warmup: Count | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decay: Decay = "decoupled"

    moves_by_rate = True
    slots = ("exp_avg_fast", "exp_avg_slow", Slot("exp_avg_sq", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2, beta3 = h.betas
        alpha = h.alpha
        if h.alpha_warmup is not None:
            alpha = alpha * minimum(s.step / h.alpha_warmup, 1.0)
        if h.beta3_warmup is not None:
            share = minimum(s.step / h.beta3_warmup, 1.0)
            beta3 = exp(1 / lerp(1 / log(beta1), 1 / log(beta3), share))
        fast = lerp(s.exp_avg_fast, g, 1 - beta1)
        slow = lerp(s.exp_avg_slow, g, 1 - beta3)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        step = (fast / (1 - beta1**s.step) + alpha * slow) / (root + h.eps)
        return step, {"exp_avg_fast": fast, "exp_avg_slow": slow, "exp_avg_sq": exp_avg_sq}
