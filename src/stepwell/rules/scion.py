"""Scion: steps to the far end of a ball of a norm that suits the layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from stepwell.algebra import lerp, mean, sign, sqrt, square
from stepwell.algebra.matrices import as_dtype_of, orthogonalized
from stepwell.rules.hyper import Count, NonNegative, Positive, Range, Rounds
from stepwell.rules.matrix_rule import OneMatrixRule
from stepwell.rules.rule import Decay, Rule, Shape

Share = Annotated[float, Range(low=0, high=1, open_low=True)]
EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class Scion(OneMatrixRule):
    """Conditional gradient steps in a norm of each layer's own (Pethick et al. 2025, arXiv:2502.07529, Alg. 1 and 2).

        dₜ = (1 − α)·dₜ₋₁ + α·gₜ
        θₜ = (1 − η)·θₜ₋₁ − η·ρ·lmo(dₜ)        unconstrained: θₜ₋₁ − η·ρ·lmo(dₜ)

    lmo(d) points at the end of the unit ball where d is largest. For the spectral norm of (rows, cols) it is
    √(rows/cols)·UVᵀ (of d = USVᵀ, by Newton–Schulz), for the kernel of a convolution with k positions √(out/in)/k·UVᵀ,
    for the sign norm sign(d)/cols, and for a vector d / RMS(d). Constrained, the weights never leave a ball of radius
    ρ that they start in.

    Args:
        lr: η, per step, at least 0; constrained, at most 1.
        momentum: α in (0, 1], the weight of the new gradient: 0.1 where other rules would say 0.9.
        weight_decay: λ, at least 0, decoupled; the constraint is a decay by itself.
        scale: ρ, the radius. The authors take 50 for hidden layers and 3000 for the head of a GPT.
        norm: "auto" is "spectral" for matrices; "sign" is for heads and embeddings.
        unconstrained: step, and do not pull the weights into the ball.
        ns_steps: iterations of Newton–Schulz, from 1 to 100.
        positions: k, which is read from the shape of a kernel.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack.
    """

    lr: NonNegative = 1e-3
    momentum: Share = 0.1
    weight_decay: NonNegative = 0.0
    scale: Positive = 1.0
    norm: Literal["auto", "spectral", "sign"] = "auto"
    unconstrained: bool = False
    ns_steps: Rounds = 5
    positions: Count = 1

    slots = ("momentum_buffer",)

    def fit(self, shape: Shape) -> Rule:
        if len(shape) < 2:
            return ScionOfVectors(**{name: self.values()[name] for name in ScionOfVectors.field_names()})
        return self.but(positions=math.prod(shape[2:])) if self.is_kernel(shape) and 0 not in shape else self

    def mixed(self, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        buffer = lerp(s.momentum_buffer, g, h.momentum)
        return buffer, {"momentum_buffer": buffer}

    def turned(self, x: Any, h: Any) -> Any:
        rows, cols = x.shape[-2:]
        if h.norm == "sign":
            return sign(x) / max(cols, 1)
        channels = max(cols // h.positions, 1)
        orthogonal = as_dtype_of(orthogonalized(x, steps=h.ns_steps), x)
        return math.sqrt(rows / channels) / h.positions * orthogonal

    def aimed(self, p: Any, turned: Any, h: Any) -> Any:
        return constrained(h.scale * turned, p, h)


@dataclass(frozen=True, kw_only=True)
class ScionOfVectors(Rule, abstract=True):
    """What `Scion` does to vectors and numbers: the momentum over its root mean square."""

    lr: NonNegative = 1e-3
    momentum: Share = 0.1
    weight_decay: NonNegative = 0.0
    scale: Positive = 1.0
    unconstrained: bool = False
    decay: Decay = "decoupled"

    slots = ("momentum_buffer",)
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        buffer = lerp(s.momentum_buffer, g, h.momentum)
        step = buffer / (sqrt(mean(square(buffer))) + EPS)
        return constrained(h.scale * step, p, h), {"momentum_buffer": buffer}


def constrained(step: Any, p: Any, h: Any) -> Any:
    """The step, and unless there is no constraint the pull that keeps the weights in the ball."""
    return step if h.unconstrained else step + p
