"""RMSprop: gradients divided by the root of a running mean of their squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import lerp, maximum, sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative, Range, Switch
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class RMSprop(Rule):
    """Gradients divided by the root of the mean of their squares (Tieleman & Hinton 2012, Coursera lecture 6e).

        vₜ = α·vₜ₋₁ + (1 − α)·gₜ²
        θₜ = θₜ₋₁ − η·dₜ,   dₜ = gₜ / (√vₜ + ε)

    Centered (Graves 2013, arXiv:1308.0850, eqs. 38–45), √(vₜ − ḡₜ²) takes the place of √vₜ, with ḡ the running mean of
    g; a variance that rounding has put below 0 counts as 0, where torch gives NaN. With momentum bₜ = μ·bₜ₋₁ + dₜ takes
    the place of dₜ.

    Args:
        lr: learning rate η per step, at least 0.
        alpha: α, the memory of the means, in [0, 1).
        eps: ε, at least 0; it stands outside the root, as in torch.
        weight_decay: λ, at least 0.
        momentum: μ, at least 0; 0 keeps no slot.
        centered: divide by the standard deviation in place of the root mean square, for one more slot.
        decay: "coupled" (as torch's), or another kind.
    """

    lr: NonNegative = 1e-2
    alpha: Fraction = 0.99
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: Annotated[float, Range(low=0), Switch()] = 0.0
    centered: bool = False
    decay: Decay = "coupled"

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        momentum = ("momentum_buffer",) if self.momentum else ()
        if not self.centered:
            return (Slot("square_avg", positive=True), *momentum)
        # Of the variance, a difference of the two, coarser numbers would leave nothing.
        return (Slot("square_avg", positive=True, fine=True), *momentum, Slot("grad_avg", fine=True))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        variance = square_avg = h.alpha * s.square_avg + (1 - h.alpha) * square(g)
        slots = {"square_avg": square_avg}
        if h.centered:
            grad_avg = slots["grad_avg"] = lerp(s.grad_avg, g, 1 - h.alpha)
            variance = maximum(square_avg - square(grad_avg), 0.0)
        step = g / (sqrt(variance) + h.eps)
        if h.momentum:
            step = slots["momentum_buffer"] = h.momentum * s.momentum_buffer + step
        return step, slots
