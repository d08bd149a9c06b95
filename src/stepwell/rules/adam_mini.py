"""Adam-mini: one second moment for a whole row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import lerp, mean, row_mean, sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative
from stepwell.rules.rule import Decay, Rule, Shape, Slot, row_wise, tensor_wise


@dataclass(frozen=True, kw_only=True)
class AdamMini(Rule):
    """Adam with one second moment a block of weights (Zhang et al. 2024, arXiv:2406.16793, Alg. 1 and 2).

        m = β₁·m + (1 − β₁)·g,   v = β₂·v + (1 − β₂)·mean(g²) over the block
        θ = θ − η·m̂ / (√v̂ + ε)

    A block is a row of a matrix or of a stack of them (an output neuron, a token), and any other parameter as a whole.
    So it keeps one number an element and little more. The authors' code has Adam's v for every bias, and one block for
    each head of queries and keys.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.
        blocks: "rows", or "tensor" for one block a parameter.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    blocks: Literal["rows", "tensor"] = "rows"
    decay: Decay = "decoupled"

    acts_on = "tensors"

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return ("exp_avg", Slot("exp_avg_sq", shape=row_wise if self.blocks == "rows" else tensor_wise))

    def fit(self, shape: Shape) -> Rule:
        return self.but(blocks="tensor") if self.blocks == "rows" and len(shape) not in (2, 3) else self

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        mean_square = row_mean(square(g)) if h.blocks == "rows" else mean(square(g))
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * mean_square
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        return exp_avg / (1 - beta1**s.step) / (root + h.eps), {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
