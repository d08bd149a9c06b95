"""LAMB: Adam's direction, scaled layer by layer to the size of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import lerp, norm, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Rule, Slot


@dataclass(frozen=True, kw_only=True)
class LAMB(Rule):
    """Layer-wise adaptation for large batches (You et al. 2020, arXiv:1904.00962, Alg. 2, with φ(x) = x).

        rₜ = m̂ₜ / (√v̂ₜ + ε) + λ·θₜ₋₁
        θₜ = θₜ₋₁ − η·(‖θₜ₋₁‖ / ‖rₜ‖)·rₜ

    The trust ratio ‖θ‖ / ‖r‖ is taken over each whole parameter; it is 1 where either norm is 0.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; the paper puts it inside the trust ratio, so there is no other kind.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0
    decay: Literal["inside"] = "inside"

    slots = ("exp_avg", Slot("exp_avg_sq", positive=True))
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        step = exp_avg / (1 - beta1**s.step) / (root + h.eps) + h.weight_decay * p
        weight_norm, step_norm = norm(p), norm(step)
        trust = where(weight_norm > 0, where(step_norm > 0, weight_norm / step_norm, 1.0), 1.0)
        return trust * step, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
