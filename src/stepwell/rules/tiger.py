"""Tiger: a tight-fisted optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import lerp, sign
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule


@dataclass(frozen=True, kw_only=True)
class Tiger(Rule):
    """The sign of a running mean, with one slot (Su 2023, github.com/bojone/tiger).

        mₜ = β·mₜ₋₁ + (1 − β)·gₜ
        θₜ = θₜ₋₁ − η·(sign(mₜ) + λ·θₜ₋₁)

    It is Lion with β₁ = β₂ = β, and Signum with decoupled decay. The author's rates by kind of parameter are a matter
    of parameter groups here.

    Args:
        lr: learning rate η per step, at least 0.
        beta: β in [0, 1).
        weight_decay: λ, at least 0.
        decay: "decoupled", or another kind.
    """

    lr: NonNegative = 1e-3
    beta: Fraction = 0.965
    weight_decay: NonNegative = 0.01
    decay: Decay = "decoupled"

    moves_by_rate = True
    slots = ("exp_avg",)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        exp_avg = lerp(s.exp_avg, g, 1 - h.beta)
        return sign(exp_avg), {"exp_avg": exp_avg}
