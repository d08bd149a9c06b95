"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class NAdam(Rule):
    """Adam that looks ahead (Dozat 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ, with its schedule of momenta).

        μₜ = β₁·(1 − ½·0.96^(t·ψ))                 Mₜ = μ₁·μ₂⋯μₜ
        mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ                 vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²,   v̂ₜ = vₜ / (1 − β₂ᵗ)
        θₜ = θₜ₋₁ − η·((1 − μₜ)/(1 − Mₜ)·gₜ + μₜ₊₁/(1 − Mₜ₊₁)·mₜ) / (√v̂ₜ + ε)

    As in torch, the mean m has the constant memory β₁, and the schedule only weighs it against the gradient.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        momentum_decay: ψ, how fast the momentum grows from β₁/2 to β₁, at least 0.
        decay: "coupled" (as torch's), "decoupled" (torch's `decoupled_weight_decay=True`), or another kind.
    """

    lr: NonNegative = 2e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decay: Decay = "coupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", positive=True), Slot("mu_product", scalar=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        mu = beta1 * (1 - 0.5 * 0.96 ** (s.step * h.momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((s.step + 1) * h.momentum_decay))
        mu_product = where(s.step > 1, s.mu_product, 1.0) * mu
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        ahead = (1 - mu) / (1 - mu_product) * g + mu_next / (1 - mu_product * mu_next) * exp_avg
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        return ahead / (root + h.eps), {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "mu_product": mu_product}
