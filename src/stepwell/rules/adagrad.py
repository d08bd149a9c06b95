"""Adagrad: every weight has a rate of its own, which falls with all gradients it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import sqrt, square, where
from stepwell.rules.hyper import NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Adagrad(Rule):
    """Rates that fall with the squares of all gradients so far (Duchi et al. 2011, jmlr.org/papers/v12/duchi11a.html).

        rₜ = rₜ₋₁ + gₜ²                                      (r₀ = initial_accumulator_value)
        θₜ = θₜ₋₁ − η/(1 + (t − 1)·lr_decay)·gₜ / (√rₜ + ε)

    Args:
        lr: learning rate η, at least 0.
        lr_decay: how fast η falls with the step, at least 0.
        weight_decay: λ, at least 0.
        initial_accumulator_value: what stands in every rᵢ before the first gradient, at least 0.
        eps: ε, at least 0; it stands outside the root, as in torch.
        decay: "coupled" (as torch's), or another kind.
    """

    lr: NonNegative = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: NonNegative = 1e-10
    decay: Decay = "coupled"

    moves_by_rate = True
    slots = (Slot("sum", positive=True),)

    def rate(self, s: Any, h: Any) -> Any:
        return h.lr / (1 + (s.step - 1) * h.lr_decay)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        total = where(s.step > 1, s.sum, h.initial_accumulator_value) + square(g)
        return g / (sqrt(total) + h.eps), {"sum": total}
