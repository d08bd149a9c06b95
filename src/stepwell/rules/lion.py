"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sign
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule


@dataclass(frozen=True, kw_only=True)
class Lion(Rule):
    """Sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, Alg. 2).

        θₜ = θₜ₋₁ − η·(sign(β₁·mₜ₋₁ + (1 − β₁)·gₜ) + λ·θₜ₋₁)
        mₜ = β₂·mₜ₋₁ + (1 − β₂)·gₜ

    Every weight moves by exactly η (before decay). The paper advises a rate 3–10 times smaller than AdamW's and a
    weight decay 3–10 times larger.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        weight_decay: λ, at least 0.
        decay: "decoupled" (the paper's), or another kind.
    """

    lr: NonNegative = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    decay: Decay = "decoupled"

    moves_by_rate = True
    slots = ("exp_avg",)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        return sign(lerp(g, s.exp_avg, beta1)), {"exp_avg": lerp(s.exp_avg, g, 1 - beta2)}
