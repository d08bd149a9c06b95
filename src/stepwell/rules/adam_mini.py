"""Adam-mini: one second moment for a whole row, or a whole head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import lerp, mean, row_mean, sqrt, square
from stepwell.rules.hyper import Count, Fraction, NonNegative
from stepwell.rules.matrix_rule import check_split
from stepwell.rules.rule import Decay, Rule, Shape, Slot, row_wise, tensor_wise


@dataclass(frozen=True, kw_only=True)
class AdamMini(Rule):
    """Adam with one second moment a block of weights (Zhang et al. 2024, arXiv:2406.16793, Alg. 1 and 2).

        m = β₁·m + (1 − β₁)·g,   v = β₂·v + (1 − β₂)·mean(g²) over the block
        θ = θ − η·m̂ / (√v̂ + ε)

    A block is a row of a matrix or of a stack of them (an output neuron, a token), and any other parameter as a whole.
    So it keeps one number an element and little more. The paper's partition for transformers has one block for each
    head of queries and keys: put these into a group of their own with `heads`. The authors' code has Adam's v for every
    bias.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.
        blocks: "rows", or "tensor" for one block a parameter.
        heads: cut the rows of a matrix into so many equal blocks, one for each head of its queries or keys; None makes
            each row a block. Where one matrix makes queries, keys and values it is 3·heads, and values go by heads,
            too.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    blocks: Literal["rows", "tensor"] = "rows"
    heads: Count | None = None
    decay: Decay = "decoupled"

    moves_by_rate = True
    acts_on = "tensors"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads is not None and self.blocks == "tensor":
            raise ValueError(f"heads={self.heads} needs blocks='rows': 'tensor' makes one block of a parameter")

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return ("exp_avg", Slot("exp_avg_sq", shape=row_wise if self.blocks == "rows" else tensor_wise))

    def fit(self, shape: Shape) -> Rule:
        if self.blocks == "rows" and len(shape) not in (2, 3):
            return self.but(blocks="tensor", heads=None)
        if self.heads is not None:
            check_split(self.heads, shape, name="heads")
        return self

    def working_shape(self, shape: Shape) -> Shape:
        # The rows of a head lie one behind the other: they are one long row.
        return shape if self.heads is None else (*shape[:-2], self.heads, shape[-2] // self.heads * shape[-1])

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        mean_square = row_mean(square(g)) if h.blocks == "rows" else mean(square(g))
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * mean_square
        root = sqrt(exp_avg_sq) / sqrt(1 - beta2**s.step)
        return exp_avg / (1 - beta1**s.step) / (root + h.eps), {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
