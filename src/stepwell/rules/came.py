"""CAME: Adafactor with a confidence in each update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.algebra import column_mean, lerp, row_mean, sqrt, square
from stepwell.rules.adafactor import clipped, inverse_root
from stepwell.rules.hyper import Fraction, NonNegative, Positive
from stepwell.rules.rule import Decay, Rule, Shape, Slot, column_wise, row_wise


@dataclass(frozen=True, kw_only=True)
class CAME(Rule):
    """Adafactor with a confidence in each update, and a momentum (Luo et al. 2023, arXiv:2307.02047, Alg. 2).

        û = clip(g / √V),   m = β₁·m + (1 − β₁)·û
        θ = θ − η·m / √S

    V is factored from row and column means of g² + ε₁ (memory β₂), as in Adafactor; S in the same way from those of
    (û − m)² + ε₂ (memory β₃): where updates stray from their average, steps are short. Parameters of less than two
    dimensions keep the whole V and have no S, as in the authors' code.

    Args:
        lr: learning rate η per step, at least 0.
        eps: (ε₁, ε₂), each at least 0.
        clip_threshold: the largest root mean square of û, above 0.
        betas: (β₁, β₂, β₃), each in [0, 1).
        weight_decay: λ, at least 0, decoupled.
        factored: False keeps the whole V for every parameter.
    """

    lr: NonNegative = 2e-4
    eps: tuple[NonNegative, NonNegative] = (1e-30, 1e-16)
    clip_threshold: Positive = 1.0
    betas: tuple[Fraction, Fraction, Fraction] = (0.9, 0.999, 0.9999)
    weight_decay: NonNegative = 0.0
    factored: bool = True
    decay: Decay = "decoupled"

    acts_on = "tensors"

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        if not self.factored:
            return ("exp_avg", Slot("exp_avg_sq", positive=True))
        return (
            "exp_avg",
            Slot("exp_avg_sq_row", shape=row_wise),
            Slot("exp_avg_sq_col", shape=column_wise),
            Slot("exp_avg_res_row", shape=row_wise),
            Slot("exp_avg_res_col", shape=column_wise),
        )

    def fit(self, shape: Shape) -> Rule:
        return self.but(factored=False) if self.factored and len(shape) < 2 else self

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2, beta3 = h.betas
        eps1, eps2 = h.eps
        squares = square(g) + eps1
        if not h.factored:
            exp_avg_sq = lerp(s.exp_avg_sq, squares, 1 - beta2)
            exp_avg = lerp(s.exp_avg, clipped(g / sqrt(exp_avg_sq), h.clip_threshold), 1 - beta1)
            return exp_avg, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        square_row = lerp(s.exp_avg_sq_row, row_mean(squares), 1 - beta2)
        square_col = lerp(s.exp_avg_sq_col, column_mean(squares), 1 - beta2)
        step = clipped(g * inverse_root(square_row, square_col, column_mean(square_row)), h.clip_threshold)
        exp_avg = lerp(s.exp_avg, step, 1 - beta1)
        residue = square(step - exp_avg) + eps2
        residue_row = lerp(s.exp_avg_res_row, row_mean(residue), 1 - beta3)
        residue_col = lerp(s.exp_avg_res_col, column_mean(residue), 1 - beta3)
        return exp_avg * inverse_root(residue_row, residue_col, column_mean(residue_row)), {
            "exp_avg": exp_avg,
            "exp_avg_sq_row": square_row,
            "exp_avg_sq_col": square_col,
            "exp_avg_res_row": residue_row,
            "exp_avg_res_col": residue_col,
        }
