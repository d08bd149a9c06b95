"""Muon: momentum, orthogonalised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.algebra import lerp
from stepwell.algebra.matrices import as_dtype_of, orthogonalized, polar_express
from stepwell.rules.hyper import Count, Fraction, NonNegative, Rounds
from stepwell.rules.matrix_rule import MatrixRule, OneMatrixRule, SplitDim, by_blocks, check_split
from stepwell.rules.rule import Rule, Shape, Slot

Adjustment = Literal["original", "match_rms_adamw"]


@dataclass(frozen=True, kw_only=True)
class OrthogonalizedMomentum(MatrixRule, abstract=True):
    """What Muon and the rules that are made of it have in common: a momentum, and its orthogonal factor."""

    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: NonNegative = 1e-7
    ns_steps: Rounds = 5
    polar_express: bool = False
    split: Count | tuple[Count, ...] = 1
    split_dim: SplitDim = -2

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return ("momentum_buffer",)

    def fit(self, shape: Shape) -> Rule:
        if len(shape) > 1:
            check_split(self.split, self.working_shape(shape), self.split_dim)
        return self

    def mixed_momentum(self, g: Any, s: Any, h: Any) -> tuple[Any, Any]:
        """The momentum of this step, and what of it (Nesterov's: the gradient once more) is orthogonalised."""
        buffer = lerp(s.momentum_buffer, g, 1 - h.momentum)
        return buffer, lerp(g, buffer, h.momentum) if h.nesterov else buffer

    def orthogonal(self, x: Any, h: Any) -> Any:
        """The orthogonal factor of x, in x's dtype."""
        coefficients = polar_express(h.ns_steps) if h.polar_express else h.ns_coefficients
        return as_dtype_of(orthogonalized(x, coefficients, h.ns_steps, h.eps), x)


@dataclass(frozen=True, kw_only=True)
class Muon(OrthogonalizedMomentum, OneMatrixRule):
    """Momentum whose singular values are all set near 1 (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

        Bₜ = μ·Bₜ₋₁ + (1 − μ)·Gₜ
        θₜ = (1 − η·λ)·θₜ₋₁ − η·s·NS((1 − μ)·Gₜ + μ·Bₜ)

    NS is the Newton–Schulz iteration (`stepwell.algebra.matrices.orthogonalized`). It takes hidden layers, not
    embeddings, heads, or vectors: matrices, stacks of them (…, rows, cols), and kernels of convolutions.

    Args:
        lr: learning rate η per step, at least 0.
        weight_decay: λ, at least 0.
        momentum: μ in [0, 1).
        nesterov: mix the gradient into the momentum once more, as in the formula.
        ns_coefficients: (a, b, c) of the iteration.
        eps: the least norm that a matrix is divided by.
        ns_steps: iterations, from 1 to 100.
        adjust_lr_fn: the factor s. "original" (also None) is √max(1, rows/cols), Jordan's; "match_rms_adamw" is
            0.2·√max(rows, cols), so that rate and decay tuned for AdamW serve (Liu et al. 2025, arXiv:2502.16982).
        polar_express: take the coefficients of the Polar Express (Amsel et al. 2025, arXiv:2505.16932), which differ
            from step to step and converge, in place of `ns_coefficients`.
        split: orthogonalise blocks of rows, each on its own: a number of equal blocks (3 for a fused QKV layer,
            3·heads for its heads), or the rows of each. rows and cols in s are then the block's.
        split_dim: -2 for blocks of rows; -1 for blocks of columns, as in a weight that is stored (in, out), GPT-2's.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack.
    """

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: NonNegative = 1e-7
    ns_steps: Rounds = 5
    adjust_lr_fn: Adjustment | None = None

    moves_by_rate = True
    rough = True

    def mixed(self, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        buffer, update = self.mixed_momentum(g, s, h)
        return update, {"momentum_buffer": buffer}

    def turned(self, x: Any, h: Any) -> Any:
        def step(block: Any) -> Any:
            factor, orthogonal = rate_adjustment(block, h.adjust_lr_fn), self.orthogonal(block, h)
            return orthogonal if factor == 1.0 else factor * orthogonal

        return by_blocks(h.split, h.split_dim, step, x)


def rate_adjustment(x: Any, kind: Adjustment | None) -> float:
    """The factor that fits the rate to the size of an orthogonal (…, rows, cols) update."""
    rows, cols = x.shape[-2:]
    return 0.2 * math.sqrt(max(rows, cols)) if kind == "match_rms_adamw" else math.sqrt(max(1, rows / max(cols, 1)))
