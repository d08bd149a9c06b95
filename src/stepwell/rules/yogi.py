"""Yogi: Adam whose second moment grows and falls by bounded amounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sign, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Yogi(Rule):
    """Adam with an additive second moment (Zaheer et al. 2018, "Adaptive Methods for Nonconvex Optimization", Alg. 2).

        mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
        vₜ = vₜ₋₁ − (1 − β₂)·sign(vₜ₋₁ − gₜ²)·gₜ²        (v₀ = initial_accumulator_value)
        θₜ = θₜ₋₁ − η·m̂ₜ / (√v̂ₜ + ε)

    Where Adam's v falls at a fixed share, Yogi's falls by no more than (1 − β₂)·g². m̂ and v̂ are corrected as Adam's,
    as optax and others do; the paper's algorithm leaves the corrections out.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0; the paper advises 1e-3.
        weight_decay: λ, at least 0.
        initial_accumulator_value: what stands in v before the first gradient, at least 0.
        decay: "decoupled", or another kind.
    """

    lr: NonNegative = 1e-2
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 1e-6
    decay: Decay = "decoupled"

    moves_by_rate = True
    slots = ("exp_avg", Slot("exp_avg_sq", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        squared = square(g)
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = s.exp_avg_sq + where(s.step > 1, 0.0, h.initial_accumulator_value)
        exp_avg_sq = exp_avg_sq - (1 - beta2) * sign(exp_avg_sq - squared) * squared
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        step = exp_avg / (1 - beta1**s.step) / (root + h.eps)
        return step, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
