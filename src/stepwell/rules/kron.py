"""Kron: preconditioned gradient descent whose preconditioner is learnt, a triangular factor for each side."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import absolute, column_mean, exp, lerp, maximum, minimum, row_mean, sqrt, where
from stepwell.algebra.matrices import (
    either,
    filled_like,
    frobenius,
    identity_like,
    largest,
    longest_column,
    normal_like,
    solve_lower,
    upper_triangle,
)
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
        if 0 in g.shape:
            return g, {}
        momentum = lerp(s.momentum_buffer, g, 1 - h.b1)
        unbiased = momentum / (1 - h.b1**s.step)
        scale = sqrt(h.precond_init_scale)
        left, right = either(
            s.step == 1,
            lambda: (scale * identity(s.row_factor), scale * identity(s.column_factor)),
            lambda: (s.row_factor, s.column_factor),
        )
        waited = s.steps_since_update + 1.0
        is_due = waited >= 1 / update_probability(s.step - 1, h.preconditioner_update_probability)
        x = unbiased if h.momentum_into_precond_update else g

        def updated() -> tuple[Any, Any]:
            at_one_size = either(s.step % BALANCED_EVERY == 0, lambda: balanced(left, right), lambda: (left, right))
            return followed(at_one_size, x, h.precond_lr, seed=s.step)

        left, right = either(is_due, updated, lambda: (left, right))
        half = times_transposed(left, times(left, unbiased)).mT
        step = times_transposed(right, times(right, half)).mT
        length = frobenius(step) / math.sqrt(step.shape[-2] * step.shape[-1])
        step = step * minimum(LONGEST / (length + 1e-12), 1.0)
        slots = {"momentum_buffer": momentum, "row_factor": left, "column_factor": right}
        return step, {**slots, "steps_since_update": where(is_due, 0.0, waited)}


def update_probability(step: Any, constant: Any | None) -> Any:
    """The share of steps that update the factors, at step 0 and later."""
    return minimum(maximum(exp(-0.001 * (step - 500)), 0.03), 1.0) if constant is None else constant


def identity(factor: Any) -> Any:
    """The identity in the factor's shape, or its diagonal."""
    return identity_like(factor) if is_square(factor) else filled_like(factor, 1.0)


def balanced(left: Any, right: Any) -> tuple[Any, Any]:
    """The factors, multiplied so that their largest elements are alike: their product stays."""
    mean = sqrt(largest(left) * largest(right))
    return left * (mean / largest(left)), right * (mean / largest(right))


def followed(factors: tuple[Any, Any], x: Any, rate: Any, seed: Any) -> tuple[Any, Any]:
    """The factors after one step down the gradient of the criterion at X."""
    left, right = factors
    noise = normal_like(x, seed)
    damped = x + math.sqrt(EPS) * column_mean(row_mean(absolute(x))) * noise
    a = times(right, times(left, damped).mT).mT
    b = over_transposed(right, over_transposed(left, noise).mT).mT
    return descended(left, a, b, rate), descended(right, a.mT, b.mT, rate)


def over_transposed(factor: Any, x: Any) -> Any:
    """The inverse of the transposed factor of the rows of x, times x."""
    return solve_lower(factor.mT, x) if is_square(factor) else x / factor


def descended(factor: Any, a: Any, b: Any, rate: Any) -> Any:
    """The factor of the rows of A after a step that is relative to ‖AAᵀ + BBᵀ‖₂, or to a bound below it."""
    difference = outer_square(a, factor) - outer_square(b, factor)
    total = outer_square(a, factor) + outer_square(b, factor)
    size = largest(total)
    if not is_square(factor):
        return factor - rate * difference / maximum(size, TINY) * factor
    size = where(size > 0, spectral_bound(total / size) * size, size)
    return factor - (rate * upper_triangle(difference) / maximum(size, TINY)) @ factor


def spectral_bound(x: Any) -> Any:
    """A bound below the spectral norm of symmetric matrices, as (…, 1, 1): two steps from their longest column."""
    once = x.mT @ longest_column(x)
    return frobenius(x @ (once / frobenius(once)))
