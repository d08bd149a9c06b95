"""Kron: preconditioned gradient descent whose preconditioner is learnt, a triangular factor for each side."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from stepwell.algebra import lerp, square
from stepwell.algebra.matrices import frobenius, normal_like
from stepwell.rules.hyper import Count, Fraction, NonNegative, Positive, Range
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.preconditioning import is_square, outer_square, square_or_diagonal, times, times_transposed
from stepwell.rules.rule import Slot

# The largest root mean square of a step, and how often the two factors are brought to one size, as in kron_torch.
LONGEST = 1.1
BALANCED_EVERY = 100
# float32's rounding and its least number, whatever the factors are kept in.
EPS, TINY = 2.0**-23, 2.0**-126


@dataclass(frozen=True, kw_only=True)
class Kron(MatrixRule):
    """PSGD with a Kronecker factored preconditioner (Li 2018, 2024, arXiv:1512.04202, arXiv:2402.11858).

        M = β₁·M + (1 − β₁)·G,   θ = θ − η·P(M̂),   P(X) = Q_LᵀQ_L·X·Q_RᵀQ_R, shortened to RMS 1.1

    The triangular factors follow the gradient of the criterion gᵀPg + vᵀP⁻¹v, v normal (Li's eq. 12 for each side):

        A = Q_L·G·Q_Rᵀ,   B = Q_L⁻ᵀ·V·Q_R⁻¹
        Q_L = Q_L − μ·triu(AAᵀ − BBᵀ) / ‖AAᵀ + BBᵀ‖₂·Q_L,   Q_R likewise with AᵀA and BᵀB

    As in `kron_torch`, by whom the defaults are too, but: V is the same at each call (its seed is the step), the
    factors are balanced every 100 steps rather than by lot, and the damping noise √ε·V that G gets for the update of
    the factors stays out of the step.

    Args:
        lr: learning rate η per step, at least 0.
        b1: β₁ in [0, 1).
        weight_decay: λ, at least 0, decoupled.
        preconditioner_update_probability: in (0, 1], the share of the steps that update the factors; None is 1 for 500
            steps, and falls to 0.03 by step 4000.
        max_size_triangular: a side that is longer has a diagonal factor.
        momentum_into_precond_update: whether M̂ or G enters the update of the factors.
        precond_lr: μ, above 0.
        precond_init_scale: what P begins with, times the identity, above 0; the factors with its square root.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack.
    """

    lr: NonNegative = 3e-4
    b1: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    preconditioner_update_probability: Annotated[float, Range(low=0, high=1, open_low=True)] | None = None
    max_size_triangular: Count = 8192
    momentum_into_precond_update: bool = True
    precond_lr: Positive = 0.1
    precond_init_scale: Positive = 1.0

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        shape = functools.partial(square_or_diagonal, limit=self.max_size_triangular)
        return (
            "momentum_buffer",
            Slot("row_factor", shape=functools.partial(shape, side="rows"), wide=True),
            Slot("column_factor", shape=functools.partial(shape, side="columns"), wide=True),
            Slot("steps_since_update", scalar=True),
        )

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        if not g.numel():
            return g, {}
        momentum = lerp(s.momentum_buffer, g, 1 - h.b1)
        unbiased = momentum / (1 - h.b1**s.step)
        left, right = s.row_factor, s.column_factor
        if s.step == 1:
            left, right = (identity_like(q) * math.sqrt(h.precond_init_scale) for q in (left, right))
        waited = s.steps_since_update + 1
        if waited >= 1 / update_probability(s.step - 1, h.preconditioner_update_probability):
            waited = 0.0
            if s.step % BALANCED_EVERY == 0:
                left, right = balanced(left, right)
            x = unbiased if h.momentum_into_precond_update else g
            left, right = followed(left, right, x, h.precond_lr, seed=int(s.step))
        half = times_transposed(left, times(left, unbiased)).mT
        step = times_transposed(right, times(right, half)).mT
        length = frobenius(step) / math.sqrt(step.shape[-2] * step.shape[-1])
        step = step * (LONGEST / (length + 1e-12)).clamp(max=1.0)
        slots = {"momentum_buffer": momentum, "row_factor": left, "column_factor": right}
        return step, {**slots, "steps_since_update": waited}


def update_probability(step: int, constant: float | None) -> float:
    """The share of steps that update the factors, at step 0 and later."""
    return constant or min(1.0, max(0.03, math.exp(-0.001 * (step - 500))))


def identity_like(factor: Tensor) -> Tensor:
    """The identity, or its diagonal."""
    if not is_square(factor):
        return torch.ones_like(factor)
    return torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand(factor.shape)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The factors, multiplied so that their largest elements are alike: their product stays."""
    largest_left, largest_right = (q.abs().amax((-2, -1), keepdim=True) for q in (left, right))
    mean = (largest_left * largest_right) ** 0.5
    return left * (mean / largest_left), right * (mean / largest_right)


def followed(left: Tensor, right: Tensor, x: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """The factors after one step down the gradient of the criterion at X."""
    noise = normal_like(x, seed)
    damped = x + math.sqrt(EPS) * x.abs().mean((-2, -1), keepdim=True) * noise
    a = times(right, times(left, damped).mT).mT
    b = over_transposed(right, over_transposed(left, noise).mT).mT
    return descended(left, a, b, rate), descended(right, a.mT, b.mT, rate)


def over_transposed(factor: Tensor, x: Tensor) -> Tensor:
    """The inverse of the transposed factor of the rows of x, times x."""
    return torch.linalg.solve_triangular(factor.mT, x, upper=False) if is_square(factor) else x / factor


def descended(factor: Tensor, a: Tensor, b: Tensor, rate: float) -> Tensor:
    """The factor of the rows of A after a step that is relative to ‖AAᵀ + BBᵀ‖₂, or to a bound below it."""
    difference = outer_square(a, factor) - outer_square(b, factor)
    total = outer_square(a, factor) + outer_square(b, factor)
    largest = total.abs().amax((-2, -1), keepdim=True)
    if not is_square(factor):
        return factor - rate * difference / largest.clamp(min=TINY) * factor
    size = torch.where(largest > 0, spectral_bound(total / largest) * largest, largest)
    return factor - (rate * difference.triu() / size.clamp(min=TINY)) @ factor


def spectral_bound(x: Tensor) -> Tensor:
    """A bound below the spectral norm of symmetric matrices, as (…, 1, 1): two steps from their longest column."""
    lengths = square(x).sum(-2, keepdim=True)
    column = torch.take_along_dim(x, lengths.argmax(-1, keepdim=True), -1)
    once = x.mT @ column
    return frobenius(x @ (once / frobenius(once)))
