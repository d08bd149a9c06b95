"""Adamax: Adam with the largest gradient in place of the mean square."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import absolute, lerp, maximum
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Adamax(Rule):
    """Adam in the infinity norm (Kingma & Ba 2015, arXiv:1412.6980, Alg. 2).

        mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
        uₜ = max(β₂·uₜ₋₁, |gₜ| + ε)
        θₜ = θₜ₋₁ − η/(1 − β₁ᵗ)·mₜ / uₜ

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0, inside the maximum as in torch; the paper has none.
        weight_decay: λ, at least 0.
        decay: "coupled" (as torch's), or another kind.
    """

    lr: NonNegative = 2e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decay: Decay = "coupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_inf", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_inf = maximum(beta2 * s.exp_inf, absolute(g) + h.eps)
        return exp_avg / (1 - beta1**s.step) / exp_inf, {"exp_avg": exp_avg, "exp_inf": exp_inf}
