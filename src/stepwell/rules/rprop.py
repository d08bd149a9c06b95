"""Rprop: resilient backpropagation, which looks at signs only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import maximum, minimum, sign, where
from stepwell.rules.hyper import NonNegative, OpenFraction, Range
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class Rprop(Rule):
    """A step size for each weight, that grows while the gradient keeps its sign (Riedmiller & Braun 1993,
    doi:10.1109/ICNN.1993.298623).

        Δₜ = min(η⁺·Δₜ₋₁, Δ_max)   where gₜ and gₜ₋₁ have one sign,
             max(η⁻·Δₜ₋₁, Δ_min)   where their signs differ; gₜ is then taken as 0,
             Δₜ₋₁                  where either is 0
        θₜ = θₜ₋₁ − Δₜ·sign(gₜ)

    It is made for whole batches: the sign of a noisy gradient says little. As in torch there is no step back where the
    sign has changed, as the paper takes one: it is the variant iRprop⁻ (Igel & Hüsken 2000).

    Args:
        lr: the first Δ, at least 0; it has no part in later steps.
        etas: (η⁻, η⁺), in (0, 1) and above 1.
        step_sizes: (Δ_min, Δ_max), each at least 0.
        weight_decay: λ, at least 0; torch has none.
        decay: "decoupled", or another kind.
    """

    lr: NonNegative = 1e-2
    etas: tuple[OpenFraction, Annotated[float, Range(low=1, open_low=True)]] = (0.5, 1.2)
    step_sizes: tuple[NonNegative, NonNegative] = (1e-6, 50.0)
    weight_decay: NonNegative = 0.0
    decay: Decay = "decoupled"

    slots = (Slot("prev", fine=True), Slot("step_size", positive=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_sizes[0] > self.step_sizes[1]:
            raise ValueError(f"step_sizes must be the smallest and the largest, got {self.step_sizes!r}")

    def rate(self, s: Any, h: Any) -> Any:
        return 1.0

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        (shrink, grow), (smallest, largest) = h.etas, h.step_sizes
        agreement = sign(g) * sign(s.prev)
        step_size = s.step_size + where(s.step > 1, 0.0, h.lr)
        step_size = where(agreement > 0, grow * step_size, where(agreement < 0, shrink * step_size, step_size))
        step_size = minimum(maximum(step_size, smallest), largest)
        g = where(agreement < 0, 0.0, g)
        return sign(g) * step_size, {"prev": g, "step_size": step_size}
