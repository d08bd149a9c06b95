"""Adan: adaptive Nesterov momentum, from differences of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Adan(Rule):
    """Nesterov momentum without looking ahead (Xie et al. 2022, arXiv:2208.06677, Alg. 1).

        mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
        vₜ = β₂·vₜ₋₁ + (1 − β₂)·(gₜ − gₜ₋₁)                  (g₀ = g₁)
        nₜ = β₃·nₜ₋₁ + (1 − β₃)·(gₜ + β₂·(gₜ − gₜ₋₁))²
        θₜ = (θₜ₋₁ − η·(m̂ₜ + β₂·v̂ₜ) / (√n̂ₜ + ε)) / (1 + η·λ)

    The betas are those of the authors' code: the share that is kept, 1 minus the paper's. The slot `neg_pre_grad`
    holds −gₜ₋₁, as theirs does.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂, β₃), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        decay: "proximal" (the paper's), "decoupled" (the authors' `no_prox=True`), or another kind.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction, Fraction] = (0.98, 0.92, 0.99)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decay: Decay = "proximal"

    moves_by_rate = True
    slots = ("exp_avg", "exp_avg_diff", Slot("exp_avg_sq", positive=True), "neg_pre_grad")

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2, beta3 = h.betas
        difference = where(s.step > 1, g + s.neg_pre_grad, 0.0)
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_diff = lerp(s.exp_avg_diff, difference, 1 - beta2)
        exp_avg_sq = lerp(s.exp_avg_sq, square(g + beta2 * difference), 1 - beta3)
        ahead = exp_avg / (1 - beta1**s.step) + beta2 * exp_avg_diff / (1 - beta2**s.step)
        root = sqrt(exp_avg_sq) / sqrt(1 - beta3**s.step)
        slots = {"exp_avg": exp_avg, "exp_avg_diff": exp_avg_diff, "exp_avg_sq": exp_avg_sq, "neg_pre_grad": -g}
        return ahead / (root + h.eps), slots
