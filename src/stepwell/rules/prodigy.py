"""Prodigy: Adam whose learning rate follows an estimate of the distance to the solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import absolute, lerp, maximum, minimum, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative, Positive
from stepwell.rules.rule import Rule, Slot

IN_WORDS = "lr·d, d estimated while it trains"


@dataclass(frozen=True, kw_only=True)
class Prodigy(Rule):
    """Adam without a learning rate (Mishchenko & Defazio 2023, arXiv:2306.06101, Alg. 4).

        rₖ₊₁ = β₃·rₖ + (dₖ/d₀)·γₖdₖ·⟨gₖ, θ₀ − θₖ⟩,   sₖ₊₁ = β₃·sₖ + (dₖ/d₀)·γₖdₖ·gₖ
        d̂ₖ₊₁ = c·rₖ₊₁ / ‖sₖ₊₁‖₁,   dₖ₊₁ = max(dₖ, d̂ₖ₊₁)
        m = β₁·m + (1 − β₁)·dₖgₖ,   v = β₂·v + (1 − β₂)·dₖ²gₖ²
        θₖ₊₁ = θₖ − γₖdₖ·m / (√v + dₖε)

    r and ‖s‖₁ are sums over all parameters that Prodigy moves (γ > 0), and d is one number for all of them, also for a
    group that is added later; γ is the learning rate, with Adam's bias correction where that is on. As in the authors'
    `prodigyopt`, whose names the arguments have, except that dₖ multiplies ε, as in the paper, where theirs takes dₖ₊₁;
    that each parameter counts its own steps for the bias correction; and that a growth that is not limited is None.

    Args:
        lr: γ, at least 0. Leave it at 1, or let a schedule run from 1 to 0.
        betas: (β₁, β₂), each in [0, 1).
        beta3: β₃ in [0, 1), or None for √β₂.
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        use_bias_correction: Adam's bias correction.
        safeguard_warmup: leave γ out of s, so that a warm-up from small rates does not shrink it.
        d0: d₀, above 0, the first estimate, far below the right one.
        d_coef: c, above 0; smaller or larger steps.
        growth_rate: the largest dₖ₊₁/dₖ once the estimate has left d₀, above 0, or None.
        decay: "inside" shrinks the weights by γₖdₖ·λ (the authors' decouple=True), "independent" by λ; "coupled" adds
            λθ to the gradient.
    """

    lr: NonNegative = 1.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    beta3: Fraction | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    d0: Positive = 1e-6
    d_coef: Positive = 1.0
    growth_rate: Positive | None = None
    decay: Literal["inside", "coupled", "independent"] = "inside"

    slots = (
        "exp_avg",
        Slot("exp_avg_sq", positive=True),
        "s",
        Slot("p0", start="weights"),
        Slot("d", scalar=True, shared=True),
        Slot("next_d", scalar=True, shared=True),
        Slot("d_max", scalar=True, shared=True),
        Slot("d_numerator", scalar=True, shared=True),
    )

    @property
    def own_rate(self) -> str:
        return IN_WORDS

    def measure(self, p: Any, g: Any, s: Any, h: Any) -> Mapping[str, Any]:
        if h.decay == "coupled":
            g = g + h.weight_decay * p
        d = current_d(s, h)
        progress = d / h.d0 * d * h.lr * bias_correction(s, h) * g * (s.p0 - p)
        # What stands still, at a rate of 0, makes no progress, and takes none from the others.
        length = absolute(self.gradient_sum(g, d, s, h)) * where(h.lr > 0, 1.0, 0.0)
        return {"progress": progress, "length": length}

    def settle(self, totals: Mapping[str, Any], s: Any, h: Any) -> Mapping[str, Any]:
        d, d_max = current_d(s, h), maximum(s.d_max, h.d0)
        learns = h.lr * totals["length"] > 0
        numerator = beta3_of(h) * s.d_numerator + totals["progress"]
        estimate = h.d_coef * numerator / where(learns, totals["length"], 1.0)
        new_max = larger(d_max, estimate)
        grown = where(d == h.d0, larger(d, estimate), d)
        limited = new_max if h.growth_rate is None else minimum(new_max, grown * h.growth_rate)
        return {
            "d": d,
            "next_d": where(learns, limited, d),
            "d_max": where(learns, new_max, d_max),
            "d_numerator": where(learns, numerator, s.d_numerator),
        }

    def gradient_sum(self, g: Any, d: Any, s: Any, h: Any) -> Any:
        """sₖ₊₁; at a rate of 0 sₖ."""
        moves = h.lr > 0
        rate = where(moves, d, 0.0) if h.safeguard_warmup else d * h.lr * bias_correction(s, h)
        return where(moves, beta3_of(h), 1.0) * s.s + d / h.d0 * rate * g

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, s.d * g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(s.d * g)
        step = bias_correction(s, h) * exp_avg / (sqrt(exp_avg_sq) + s.d * h.eps)
        if h.decay == "inside":
            step = step + bias_correction(s, h) * h.weight_decay * p
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "s": self.gradient_sum(g, s.d, s, h)}
        return s.d * step, slots


def current_d(s: Any, h: Any) -> Any:
    """dₖ, before this step's numbers are settled."""
    return where(s.next_d > 0, s.next_d, h.d0)


def larger(known: Any, estimate: Any) -> Any:
    """The larger of both; an estimate that is NaN does not count."""
    return where(estimate > known, estimate, known)


def beta3_of(h: Any) -> Any:
    """β₃."""
    return sqrt(h.betas[1]) if h.beta3 is None else h.beta3


def bias_correction(s: Any, h: Any) -> Any:
    """Adam's, as a factor of the rate; 1 where it is off."""
    beta1, beta2 = h.betas
    return sqrt(1 - beta2**s.step) / (1 - beta1**s.step) if h.use_bias_correction else 1.0
