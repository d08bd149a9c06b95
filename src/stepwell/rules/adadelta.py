"""Adadelta: steps in the units of the weights, from the sizes of past steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Adadelta(Rule):
    """Steps as large as past steps were, in the proportion of gradients (Zeiler 2012, arXiv:1212.5701, Alg. 1).

        vₜ = ρ·vₜ₋₁ + (1 − ρ)·gₜ²
        dₜ = √(uₜ₋₁ + ε) / √(vₜ + ε)·gₜ
        uₜ = ρ·uₜ₋₁ + (1 − ρ)·dₜ²
        θₜ = θₜ₋₁ − η·dₜ

    Args:
        lr: η, at least 0; the paper has 1.
        rho: ρ, the memory of both means, in [0, 1).
        eps: ε, at least 0, inside both roots: it sets the size of the first steps, which is √ε.
        weight_decay: λ, at least 0.
        decay: "coupled" (as torch's), or another kind.
    """

    lr: NonNegative = 1.0
    rho: Fraction = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0
    decay: Decay = "coupled"

    slots = (Slot("square_avg", positive=True), Slot("acc_delta", positive=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        square_avg = h.rho * s.square_avg + (1 - h.rho) * square(g)
        delta = sqrt(s.acc_delta + h.eps) / sqrt(square_avg + h.eps) * g
        return delta, {"square_avg": square_avg, "acc_delta": h.rho * s.acc_delta + (1 - h.rho) * square(delta)}
