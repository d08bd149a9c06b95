"""LARS: momentum, scaled layer by layer to the size of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import norm, where
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Rule


@dataclass(frozen=True, kw_only=True)
class LARS(Rule):
    """Layer-wise rates for large batches (You et al. 2017, arXiv:1708.03888, Alg. 1).

        lₜ = ψ·‖θₜ₋₁‖ / (‖gₜ‖ + λ·‖θₜ₋₁‖ + ε)
        vₜ = μ·vₜ₋₁ + η·lₜ·(gₜ + λ·θₜ₋₁)
        θₜ = θₜ₋₁ − vₜ                            Nesterov: − (μ·vₜ + η·lₜ·(gₜ + λ·θₜ₋₁))

    The norms are taken over each whole parameter; l is 1 where the weights or the divisor are 0. As in the paper, the
    rate is inside the momentum: a new η changes the steps to come and not those in v. Give vectors (norms and biases)
    to a group with another rule: the paper's are for layers.

    Args:
        lr: learning rate η per step, at least 0.
        momentum: μ in [0, 1).
        weight_decay: λ, at least 0; the paper puts it inside the local rate, so there is no other kind.
        trust_coefficient: ψ, at least 0.
        eps: ε, at least 0; the paper has none.
        nesterov: look ahead; the paper has it not.
    """

    lr: NonNegative = 1.0
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    trust_coefficient: NonNegative = 1e-3
    eps: NonNegative = 1e-8
    nesterov: bool = False
    decay: Literal["inside"] = "inside"

    slots = ("momentum_buffer",)
    acts_on = "tensors"

    def rate(self, s: Any, h: Any) -> Any:
        return 1.0

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        weight_norm = norm(p)
        size = norm(g) + h.weight_decay * weight_norm + h.eps
        local = where(weight_norm > 0, where(size > 0, h.trust_coefficient * weight_norm / size, 1.0), 1.0)
        step = h.lr * local * (g + h.weight_decay * p)
        buffer = h.momentum * s.momentum_buffer + step
        return (h.momentum * buffer + step if h.nesterov else buffer), {"momentum_buffer": buffer}
