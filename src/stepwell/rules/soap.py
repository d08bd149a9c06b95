"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from stepwell.algebra import lerp, sqrt, square
from stepwell.algebra.matrices import (
    as_dtype_of,
    column_total,
    descending,
    eigenbasis,
    either,
    filled_like,
    for_rough_products,
    frobenius,
    lerp_rough_gram,
    move_axis,
    orthonormal_columns,
    take_along,
    take_columns,
)
from stepwell.rules.adam import Adam
from stepwell.rules.hyper import Count, Fraction, NonNegative, Range
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.rule import Rule, Shape, Slot


@dataclass(frozen=True, kw_only=True)
class SOAP(MatrixRule):
    """Adam in a slowly turning basis (Vyas et al. 2024, arXiv:2409.11321, Alg. 3).

        L = β·L + (1 − β)·GGᵀ,   R = β·R + (1 − β)·GᵀG        their eigenvectors: Q_L, Q_R
        G′ = Q_Lᵀ·G·Q_R,   M′ = β₁·M′ + (1 − β₁)·G′,   V = β₂·V + (1 − β₂)·G′²
        θ = θ − η·Q_L·(M̂′ / (√V̂ + ε))·Q_Rᵀ

    Every `precondition_frequency` steps one power iteration and a QR decomposition turn the bases, M′ turns with them,
    and V is sorted as the eigenvalues are. The first gradient only makes the bases: its step is left out (its decay is
    not), and Adam's count begins with the second. Vectors and numbers are updated by Adam with the same
    hyper-parameters, from the first gradient on.

    Where the device multiplies bfloat16 faster, the step is turned back in it, and where it adds such products up in
    float32, the factors are made of G in bfloat16; all else is worked in float32. (With weights in float64 all is in
    float64.)

    Weight decay comes before the step, as for every rule here; the authors' code decays what the step has left. Their
    code also has a basis for each dimension of a kernel unless told to merge them: `merge_dims=False`.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        shampoo_beta: β in [0, 1), or None for β₂.
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.
        precondition_frequency: steps from one turn of the bases to the next.
        max_precond_dim: a side that is longer keeps its own basis (the identity).
        one_sided: leave the longest side as it is, at half the cost or less (sec. 6.2.1 of the paper).
        normalize_grads: divide each step by its root mean square.
        correct_bias: Adam's bias correction.
        conv1d: take a 3-D parameter as the kernel (out, in, width) of a 1-d convolution, not as a stack. Kernels are
            merged to (out, in·positions).
        merge_dims: False keeps a kernel as it is, with a basis for each of its dimensions; `conv1d` says what is one.
        dims: how many dimensions have a basis: 2, or all of such a kernel, which is read from its shape.
        spread_refresh: turn each side of each matrix at a step of its own within `precondition_frequency`, so that no
            step has all of that work; the first turn comes early where its turn does. A side is turned as often as
            without. (In JAX all have the same turn.)
    """

    lr: NonNegative = 3e-3
    betas: tuple[Fraction, Fraction] = (0.95, 0.95)
    shampoo_beta: Fraction | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2
    precondition_frequency: Count = 10
    max_precond_dim: Count = 10000
    one_sided: bool = False
    normalize_grads: bool = False
    correct_bias: bool = True
    merge_dims: bool = True
    dims: Annotated[int, Range(low=2, whole=True)] = 2
    spread_refresh: bool = False

    moves_by_rate = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        shape = functools.partial(factor_shape, dims=self.dims, limit=self.max_precond_dim, one_sided=self.one_sided)
        sides = [(name, functools.partial(shape, side=side)) for side, name in enumerate(side_names(self.dims))]
        factors = [Slot(f"{name}_factor", shape=shape, wide=True) for name, shape in sides]
        bases = [Slot(f"{name}_basis", shape=shape, wide=True) for name, shape in sides]
        moments = ("exp_avg", Slot("exp_avg_sq", positive=True))
        if not self.spread_refresh:
            return (*moments, *factors, *bases)
        work = functools.partial(turning_work, dims=self.dims, limit=self.max_precond_dim, one_sided=self.one_sided)
        turn = functools.partial(Slot, scalar=True, every=self.precondition_frequency)
        turns = [turn(f"{name}_turn", work=functools.partial(work, side=side)) for side, (name, _) in enumerate(sides)]
        return (*moments, *factors, *bases, *turns)

    def fit(self, shape: Shape) -> Rule:
        if len(shape) < 2:
            shared = {name: value for name, value in self.values().items() if name in Adam.field_names()}
            return Adam(**shared)
        dims = len(shape) if self.is_kernel(shape) and not self.merge_dims else 2
        return self if self.dims == dims else self.but(dims=dims)

    def working_shape(self, shape: Shape) -> Shape:
        return super().working_shape(shape) if self.merge_dims else shape

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta = h.betas[1] if h.shampoo_beta is None else h.shampoo_beta
        names = side_names(h.dims)
        # The eigenvectors hardly feel what the rounding of G adds, which is as good as independent of G.
        factors = [
            lerp_rough_gram(factor, by_side(g, side, h.dims), 1 - beta) if factor.shape[-1] else factor
            for side, factor in enumerate(getattr(s, f"{name}_factor") for name in names)
        ]
        bases = [getattr(s, f"{name}_basis") for name in names]

        def first() -> tuple[Any, tuple[Any, ...]]:
            return filled_like(g, 0.0), (s.exp_avg, s.exp_avg_sq, [eigenbasis(factor) for factor in factors])

        def later() -> tuple[Any, tuple[Any, ...]]:
            step = s.step - 1
            direction, exp_avg, exp_avg_sq = self.turned_adam(g, step, bases, s, h)
            if not h.spread_refresh:
                return direction, either(
                    step % h.precondition_frequency == 0,
                    lambda: next_bases(factors, bases, exp_avg, exp_avg_sq),
                    lambda: (exp_avg, exp_avg_sq, bases),
                )
            turns = [getattr(s, f"{name}_turn") for name in names]
            due = [(step + turn) % h.precondition_frequency == 0 for turn in turns]
            return direction, turned_in_turn(due, factors, bases, exp_avg, exp_avg_sq)

        direction, (exp_avg, exp_avg_sq, turns) = either(s.step == 1, first, later)
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        for name, factor, basis in zip(names, factors, turns, strict=True):
            slots |= {f"{name}_factor": factor, f"{name}_basis": basis}
        return direction, slots

    def turned_adam(self, g: Any, step: Any, bases: Sequence[Any], s: Any, h: Any) -> tuple[Any, Any, Any]:
        """Adam's direction, worked out in the bases and turned back, and the moments in the bases."""
        beta1, beta2 = h.betas
        projected = turned(g, bases)
        exp_avg = lerp(s.exp_avg, projected, 1 - beta1)
        exp_avg_sq = lerp(s.exp_avg_sq, square(projected), 1 - beta2)
        # Rounded to 8 bits, the step is off by less than a hundredth. G′ would be off as much in every direction, and
        # V makes the small ones as large as the others.
        step_in_bases = for_rough_products(exp_avg / (sqrt(exp_avg_sq) + h.eps))
        direction = as_dtype_of(turned(step_in_bases, [for_rough_products(basis).mT for basis in bases]), g)
        if h.correct_bias:
            direction = direction * (sqrt(1 - beta2**step) / (1 - beta1**step))
        if h.normalize_grads:
            direction = direction / (root_mean_square(direction, h.dims) + h.eps)
        return direction, exp_avg, exp_avg_sq


def side_names(dims: int) -> tuple[str, ...]:
    """What the sides are called in the names of slots."""
    return ("row", "column") if dims == 2 else tuple(f"dim{side}" for side in range(dims))


def factor_shape(shape: Shape, *, side: int, dims: int, limit: int, one_sided: bool) -> Shape:
    """The shape (…, n, n) of the factor of a side of length n, `side` counted from the first of the last `dims`.

    It is (…, 0, 0), and that side is left as it is, where n is 1 or above the limit. `one_sided` leaves the longest
    side, the last of those.
    """
    stack, sides = shape[:-dims], shape[-dims:]
    size = sides[side]
    left = one_sided and side == max(range(dims), key=lambda other: (sides[other], other))
    return (*stack, size, size) if 1 < size <= limit and not left else (*stack, 0, 0)


def turning_work(shape: Shape, *, side: int, dims: int, limit: int, one_sided: bool) -> float:
    """About how many multiplications it takes to turn one side: a product and a QR decomposition of n×n, and the
    moment's turn."""
    *stack, n, _ = factor_shape(shape, side=side, dims=dims, limit=limit, one_sided=one_sided)
    return float(math.prod(stack) * (4 * n**3 + n * math.prod(shape[-dims:]) if n else 0))


def by_side(x: Any, side: int, dims: int) -> Any:
    """x with one of its last `dims` dimensions before the others of them: (…, n, all others)."""
    moved = move_axis(x, side - dims, -dims)
    return moved.reshape(*moved.shape[: 1 - dims], math.prod(moved.shape[1 - dims :]))


def turned(x: Any, bases: Sequence[Any]) -> Any:
    """Q_Lᵀ·x·Q_R, or so for every side; a basis of size 0 stands for the identity."""
    dims = len(bases)
    for side, basis in enumerate(bases):
        if not basis.shape[-1]:
            continue
        if side == dims - 1:  # from the right, so that the result lies in memory as x does
            rows = x.reshape(*x.shape[:-dims], math.prod(x.shape[-dims:-1]), x.shape[-1])
            x = (rows @ basis).reshape(x.shape)
        else:
            moved = move_axis(x, side - dims, -dims).shape
            x = move_axis((basis.mT @ by_side(x, side, dims)).reshape(moved), -dims, side - dims)
    return x


def next_bases(factors: Sequence[Any], bases: Sequence[Any], exp_avg: Any, exp_avg_sq: Any) -> tuple[Any, ...]:
    """The moments in the bases after a step of power iteration, and these bases."""
    turns = [next_basis(factor, basis) for factor, basis in zip(factors, bases, strict=True)]
    for side, (_, order) in enumerate(turns):
        if order is not None:
            exp_avg_sq = reordered(exp_avg_sq, order, side, len(bases))
    new_bases = [new for new, _ in turns]
    return turned_over(exp_avg, bases, new_bases), exp_avg_sq, new_bases


def turned_in_turn(
    due: Sequence[Any], factors: Sequence[Any], bases: Sequence[Any], exp_avg: Any, exp_avg_sq: Any
) -> tuple[Any, ...]:
    """The same side by side, each where its turn has come."""

    def after(side: int, exp_avg: Any, exp_avg_sq: Any) -> Any:
        def alone() -> tuple[Any, ...]:
            # To one side the others are as if they had no basis.
            its_bases = [basis if other == side else basis[..., :0, :0] for other, basis in enumerate(bases)]
            m, v, turns = next_bases(factors, its_bases, exp_avg, exp_avg_sq)
            return m, v, turns[side]

        return either(due[side], alone, lambda: (exp_avg, exp_avg_sq, bases[side]))

    new_bases = []
    for side in range(len(bases)):
        exp_avg, exp_avg_sq, basis = after(side, exp_avg, exp_avg_sq)
        new_bases.append(basis)
    return exp_avg, exp_avg_sq, new_bases


def turned_over(x: Any, old: Sequence[Any], new: Sequence[Any]) -> Any:
    """x, which is seen in the old bases, in the new ones.

    A side that is shorter than the others together is turned at once, by Q_oldᵀ·Q_new; for a longer one that product
    would be more than the two turns.
    """
    others = [math.prod(x.shape[-len(old) :]) // max(basis.shape[-1], 1) for basis in old]
    at_once = [basis.shape[-1] <= other for basis, other in zip(old, others, strict=True)]
    back = [basis[..., :0, :0] if short else basis.mT for basis, short in zip(old, at_once, strict=True)]
    forth = [q.mT @ r if short else r for q, r, short in zip(old, new, at_once, strict=True)]
    return turned(turned(x, back), forth)


def reordered(x: Any, order: Any, side: int, dims: int) -> Any:
    """x with one of its sides in another order, for each of a stack its own."""
    index = order.reshape(*order.shape[:-1], *(order.shape[-1] if other == side else 1 for other in range(dims)))
    return take_along(x, index, side - dims)


def root_mean_square(x: Any, dims: int) -> Any:
    """The root of the mean square over the last `dims` dimensions, which stay with length 1."""
    norm = frobenius(by_side(x, 0, dims))
    return norm.reshape(*norm.shape[:-2], *(1,) * dims) / math.sqrt(max(math.prod(x.shape[-dims:]), 1))


def next_basis(factor: Any, basis: Any) -> tuple[Any, Any | None]:
    """One step of power iteration towards the eigenvectors of `factor`, and the order of the old ones by eigenvalue."""
    if not basis.shape[-1]:
        return basis, None
    product = factor @ basis
    order = descending(column_total(basis * product)[..., 0, :])
    return orthonormal_columns(take_columns(product, order)), order
