"""SignSGD, and Signum, which is SignSGD with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import lerp, sign
from stepwell.rules.hyper import NonNegative, Range, Switch
from stepwell.rules.rule import Decay, Rule


@dataclass(frozen=True, kw_only=True)
class SignSGD(Rule):
    """The sign of the gradient, or of its running mean (Bernstein et al. 2018, arXiv:1802.04434, Algs. 1 and 2).

        mₜ = μ·mₜ₋₁ + (1 − μ)·gₜ
        θₜ = θₜ₋₁ − η·(sign(mₜ) + λ·θₜ₋₁)

    Every weight moves by exactly η (before decay). With a momentum it is the paper's Signum.

    Args:
        lr: learning rate η per step, at least 0.
        momentum: μ in [0, 1); 0 keeps no slot.
        weight_decay: λ, at least 0.
        decay: "decoupled" (as the paper's Signum), or another kind.
    """

    lr: NonNegative = 1e-3
    momentum: Annotated[float, Range(low=0, high=1, open_high=True), Switch()] = 0.0
    weight_decay: NonNegative = 0.0
    decay: Decay = "decoupled"

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        if not h.momentum:
            return sign(g), {}
        buffer = lerp(s.momentum_buffer, g, 1 - h.momentum)
        return sign(buffer), {"momentum_buffer": buffer}
