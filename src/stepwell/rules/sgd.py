"""Stochastic gradient descent, with the momentum of Polyak and of Nesterov."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import lerp, where
from stepwell.rules.hyper import NonNegative, Range, Switch
from stepwell.rules.rule import Decay, Rule


@dataclass(frozen=True, kw_only=True)
class SGD(Rule):
    """Gradient descent with heavy-ball or Nesterov momentum (Sutskever et al. 2013, in torch's form).

        vₜ = μ·vₜ₋₁ + (1 − d)·gₜ      (v₁ = g₁)
        θₜ = θₜ₋₁ − η·vₜ              Nesterov: − η·(gₜ + μ·vₜ)

    The averaged form, vₜ = μ·vₜ₋₁ + (1 − μ)·gₜ from v₀ = 0 (Nesterov: − η·((1 − μ)·gₜ + μ·vₜ)), is `average=True`. A
    dampening of 1 − μ is the same from the second step on, but begins with the whole first gradient, and so takes a
    first step that is 1/(1 − μ) times as long.

    Args:
        lr: learning rate η per step, at least 0.
        momentum: μ in [0, 1]; 0 keeps no slot.
        dampening: d, the share of the gradient that does not enter the momentum after the first step.
        weight_decay: λ, at least 0.
        nesterov: look ahead; needs a momentum above 0 and no dampening.
        decay: "coupled" (as torch's), or another kind.
        average: let the momentum be the mean of the gradients, not their sum; takes no dampening.
    """

    lr: NonNegative = 1e-3
    momentum: Annotated[float, Range(low=0, high=1), Switch()] = 0.0
    dampening: Annotated[float, Range(low=0, high=1), Switch()] = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False
    decay: Decay = "coupled"
    average: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError(
                "nesterov=True needs momentum above 0 and dampening 0, "
                f"got momentum {self.momentum!r} and dampening {self.dampening!r}"
            )
        if self.average and self.dampening:
            raise ValueError(f"average=True takes no dampening, got {self.dampening!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        if not h.momentum:
            return g, {}
        if h.average:
            buffer = lerp(s.momentum_buffer, g, 1 - h.momentum)
            return (lerp(g, buffer, h.momentum) if h.nesterov else buffer), {"momentum_buffer": buffer}
        damped = where(s.step > 1, 1 - h.dampening, 1.0)  # the first gradient fills the buffer undamped
        buffer = h.momentum * s.momentum_buffer + damped * g
        return (g + h.momentum * buffer if h.nesterov else buffer), {"momentum_buffer": buffer}
