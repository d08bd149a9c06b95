"""NovoGrad: gradients normalised layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import lerp, sqrt, square, total, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Rule, Slot, tensor_wise


@dataclass(frozen=True, kw_only=True)
class NovoGrad(Rule):
    """Momentum of gradients over their layer's norm (Ginsburg et al. 2019, arXiv:1905.11286, Alg. 1).

        vₜ = β₂·vₜ₋₁ + (1 − β₂)·‖gₜ‖²                         v₁ = ‖g₁‖²
        mₜ = β₁·mₜ₋₁ + (gₜ / (√vₜ + ε) + λ·θₜ₋₁)              m₁ = g₁ / (√v₁ + ε) + λ·θ₀
        θₜ = θₜ₋₁ − η·mₜ

    One v a parameter, so half of Adam's state. The norm is the whole parameter's.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; the paper adds it to the normalised gradient.
        grad_averaging: from the second step on, let the new term enter m with the weight 1 − β₁.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.95, 0.98)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    grad_averaging: bool = False
    decay: Literal["inside"] = "inside"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", shape=tensor_wise))
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        squared_norm = total(square(g))
        exp_avg_sq = lerp(s.exp_avg_sq, squared_norm, where(s.step > 1, 1 - beta2, 1.0))
        normalized = g / (sqrt(exp_avg_sq) + h.eps) + h.weight_decay * p
        share = where(s.step > 1, 1 - beta1, 1.0) if h.grad_averaging else 1.0
        exp_avg = where(s.step > 1, beta1, 0.0) * s.exp_avg + share * normalized
        return exp_avg, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
