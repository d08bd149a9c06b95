"""Adam, and AdamW, which is Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, maximum, sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Adam(Rule):
    """Running means of gradients and of their squares (Kingma & Ba 2015, arXiv:1412.6980, Alg. 1).

        mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ        m̂ₜ = mₜ / (1 − β₁ᵗ)
        vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²       v̂ₜ = vₜ / (1 − β₂ᵗ)
        θₜ = θₜ₋₁ − η·m̂ₜ / (√v̂ₜ + ε)

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0; it stands outside the root, as in the paper.
        weight_decay: λ, at least 0.
        amsgrad: divide by the largest vₜ so far (Reddi et al. 2018, arXiv:1904.09237), in one more slot. As in torch,
            the largest of the uncorrected vₜ.
        decay: "coupled" (as torch's Adam), or another kind.
        correct_bias: divide the moments by 1 − βᵗ, as the paper does. False leaves them as they are, as BERT's
            optimizer did: m stands for m̂ and v for v̂, and the first steps are larger, for √v starts smaller than m.
            It is `correct_bias` of the AdamW that transformers had until version 4; its True multiplied the rate by
            √(1 − β₂ᵗ)/(1 − β₁ᵗ), which leaves ε uncorrected, and it shrank the weights after the step.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False
    decay: Decay = "coupled"
    correct_bias: bool = True

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        moments = ("exp_avg", Slot("exp_avg_sq", positive=True))
        return (*moments, Slot("max_exp_avg_sq", positive=True)) if self.amsgrad else moments

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        if h.amsgrad:
            exp_avg_sq = slots["max_exp_avg_sq"] = maximum(s.max_exp_avg_sq, exp_avg_sq)
        if not h.correct_bias:
            return exp_avg / (sqrt(exp_avg_sq) + h.eps), slots
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        return exp_avg / (1 - beta1**s.step) / (root + h.eps), slots


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101, Alg. 2).

    The weights shrink by lr·λ a step, whatever the gradient's scale. Arguments as for `Adam`; λ is 0.01 by default.
    """

    weight_decay: NonNegative = 1e-2
    decay: Decay = "decoupled"
