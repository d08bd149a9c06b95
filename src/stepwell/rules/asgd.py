"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, where
from stepwell.rules.hyper import NonNegative, Whole
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class ASGD(Rule):
    """Gradient descent with a falling rate, and the average of its path (Polyak & Juditsky 1992, in torch's form).

        θₜ = θₜ₋₁ − ηₜ·(gₜ + Λ·θₜ₋₁)                 ηₜ = η / (1 + Λ·η·(t − 1))^α
        aₜ = aₜ₋₁ + μₜ·(θₜ − aₜ₋₁)                   μₜ = 1 / max(1, t − 1 − t₀)

    The average a stands in the slot `ax`; it follows the weights until step t₀ and is a mean from there on. A new
    learning rate takes effect one step later, for ηₜ is worked out at the end of the step before, as in torch.

    Args:
        lr: learning rate η, at least 0.
        lambd: Λ, the decay that is part of the method, at least 0.
        alpha: α, the power by which the rate falls, at least 0.
        t0: t₀, the steps before averaging begins, a whole number at least 0.
        weight_decay: λ, at least 0, besides Λ.
        decay: "coupled" (as torch's), or another kind.
    """

    lr: NonNegative = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: Whole = 1e6
    weight_decay: NonNegative = 0.0
    decay: Decay = "coupled"

    slots = (Slot("ax", fine=True), Slot("eta", scalar=True), Slot("mu", scalar=True))

    def rate(self, s: Any, h: Any) -> Any:
        return where(s.step > 1, s.eta, h.lr)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        eta = h.lr / (1 + h.lambd * h.lr * s.step) ** h.alpha
        return g + h.lambd * p, {"eta": eta, "mu": 1 / maximum(s.step - h.t0, 1.0)}

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        p, slots = super().update(p, g, s, h)
        return p, {**slots, "ax": lerp(s.ax, p, where(s.step > 1, s.mu, 1.0))}
