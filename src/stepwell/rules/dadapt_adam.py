"""D-Adaptation for Adam: a learning rate that follows a lower bound of the distance to the solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import absolute, lerp, minimum, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative, Positive
from stepwell.rules.prodigy import IN_WORDS, bias_correction, current_d, larger
from stepwell.rules.rule import Rule, Slot


@dataclass(frozen=True, kw_only=True)
class DAdaptAdam(Rule):
    """Adam without a learning rate (Defazio & Mishchenko 2023, arXiv:2301.07733, Alg. 5).

        rₖ₊₁ = √β₂·rₖ + (1 − √β₂)·γₖdₖ·⟨gₖ, sₖ / (√vₖ + ε)⟩,   sₖ₊₁ = √β₂·sₖ + (1 − √β₂)·γₖdₖ·gₖ
        d̂ₖ₊₁ = rₖ₊₁ / ((1 − √β₂)·‖sₖ₊₁‖₁),   dₖ₊₁ = max(dₖ, d̂ₖ₊₁)
        m = β₁·m + (1 − β₁)·γₖdₖ·gₖ,   v = β₂·v + (1 − β₂)·gₖ²
        θₖ₊₁ = θₖ − m / (√v + ε)

    r and ‖s‖₁ are sums over all parameters that it updates, and d is one number for all of them, also for a group that
    is added later; γ is the learning rate, with Adam's bias correction where that is on. As in the authors'
    `dadaptation`, whose names the arguments have; each parameter counts its own steps for the bias correction, and a
    growth that is not limited is None.

    Args:
        lr: γ, at least 0. Leave it at 1, or let a schedule run from 1 to 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        use_bias_correction: Adam's bias correction.
        d0: d₀, above 0, the first estimate, far below the right one.
        growth_rate: the largest dₖ₊₁/dₖ, above 0, or None.
        decay: "coupled" adds λθ to the gradient; "inside" shrinks the weights by γₖdₖ·λ (the authors' decouple=True),
            "independent" by λ.
    """

    lr: NonNegative = 1.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    use_bias_correction: bool = False
    d0: Positive = 1e-6
    growth_rate: Positive | None = None
    decay: Literal["coupled", "inside", "independent"] = "coupled"

    slots = (
        "exp_avg",
        Slot("exp_avg_sq", positive=True),
        "s",
        Slot("d", scalar=True, shared=True),
        Slot("next_d", scalar=True, shared=True),
        Slot("numerator_weighted", scalar=True, shared=True),
    )

    @property
    def own_rate(self) -> str:
        return IN_WORDS

    def measure(self, p: Any, g: Any, s: Any, h: Any) -> Mapping[str, Any]:
        if h.decay == "coupled":
            g = g + h.weight_decay * p
        rate = current_d(s, h) * h.lr * bias_correction(s, h)
        progress = rate * g * s.s / (sqrt(s.exp_avg_sq) + h.eps)
        return {"progress": progress, "length": absolute(lerp(s.s, rate * g, 1 - sqrt(h.betas[1])))}

    def settle(self, totals: Mapping[str, Any], s: Any, h: Any) -> Mapping[str, Any]:
        d, memory = current_d(s, h), sqrt(h.betas[1])
        learns = h.lr * totals["length"] > 0
        numerator = lerp(s.numerator_weighted, totals["progress"], 1 - memory)
        estimate = numerator / ((1 - memory) * where(learns, totals["length"], 1.0))
        limited = estimate if h.growth_rate is None else minimum(estimate, d * h.growth_rate)
        return {
            "d": d,
            "next_d": where(learns, larger(d, limited), d),
            "numerator_weighted": where(learns, numerator, s.numerator_weighted),
        }

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        rate = s.d * h.lr * bias_correction(s, h)
        if h.decay == "coupled":
            g = g + h.weight_decay * p
        exp_avg = lerp(s.exp_avg, rate * g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        if h.decay == "inside":
            p = p * (1 - rate * h.weight_decay)
        elif h.decay == "independent":
            p = p * (1 - h.weight_decay)
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "s": lerp(s.s, rate * g, 1 - sqrt(beta2))}
        return p - exp_avg / (sqrt(exp_avg_sq) + h.eps), slots
