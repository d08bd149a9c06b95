"""AdaBelief: steps by the belief in the observed gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class AdaBelief(Rule):
    """Adam that divides by how far gradients are from their mean (Zhuang et al. 2020, arXiv:2010.07468, Alg. 2).

        mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
        sₜ = β₂·sₜ₋₁ + (1 − β₂)·(gₜ − mₜ)² + ε
        θₜ = θₜ₋₁ − η·m̂ₜ / (√ŝₜ + ε)

    It takes large steps where a gradient is as its mean foretold, and small ones where it is not. The authors' later
    option to rectify the first steps as RAdam does is no part of the algorithm and left out.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0; it enters twice, and is small because the first time it stands under the root.
        weight_decay: λ, at least 0.
        decay: "decoupled" (as the authors'), or another kind.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-16
    weight_decay: NonNegative = 0.0
    decay: Decay = "decoupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_var", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_var = beta2 * s.exp_avg_var + (1 - beta2) * square(g - exp_avg) + h.eps
        root = sqrt(exp_avg_var) / sqrt(1 - beta2**s.step)
        step = exp_avg / (1 - beta1**s.step) / (root + h.eps)
        return step, {"exp_avg": exp_avg, "exp_avg_var": exp_avg_var}
