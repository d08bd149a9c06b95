"""Schedule-Free: averaging takes the place of a learning-rate schedule (Defazio et al. 2024, arXiv:2405.15682)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stepwell.algebra import lerp, maximum, sqrt, square, where
from stepwell.rules.hyper import Fraction, NonNegative, OpenFraction, Whole
from stepwell.rules.radam import rectification
from stepwell.rules.rule import Rule, Slot

if TYPE_CHECKING:
    _Mixin = Rule
else:
    _Mixin = object


class Interpolation(_Mixin):
    """The update that Schedule-Free rules share (eqs. 3–5, with the weighting of sec. 3 and 4).

        yₜ = (1 − β)·zₜ + β·xₜ
        zₜ₊₁ = zₜ − γₜ·dₜ(yₜ)
        xₜ₊₁ = (1 − cₜ₊₁)·xₜ + cₜ₊₁·zₜ₊₁,   cₜ₊₁ = wₜ / Σᵢ wᵢ,   wₜ = tʳ·γ_maxᵖ

    The weights that the model trains on are y; the slot `z` is the fast sequence; the average x, on which to evaluate,
    is worked out when asked for. γ is the learning rate after warm-up.
    """

    def rate(self, s: Any, h: Any) -> Any:
        """γₜ, the learning rate of this step."""
        raise TypeError(f"{type(self).__name__} does not say what its rate is")

    def weighing_rate(self, s: Any, h: Any) -> Any:
        """What the average's weights are made of: γₜ, unless the rule's direction has the rate in it."""
        return self.rate(s, h)

    def momentum_of(self, h: Any) -> Any:
        """β, the share of the average in the weights that are trained on."""
        raise TypeError(f"{type(self).__name__} does not say which hyper-parameter is its β")

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta, rate = self.momentum_of(h), self.rate(s, h)
        lr_max = maximum(s.lr_max, self.weighing_rate(s, h))
        weight = s.step**h.r * lr_max**h.weight_lr_power
        weight_sum = s.weight_sum + weight
        c = where(weight_sum > 0, weight / where(weight_sum > 0, weight_sum, 1.0), 0.0)
        direction, slots = self.decayed_direction(p, g, s, h)
        y = lerp(p, s.z, c) + rate * (beta * (1 - c) - 1) * direction
        return y, {**slots, "z": s.z - rate * direction, "lr_max": lr_max, "weight_sum": weight_sum}

    def decayed_direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """dₜ(yₜ), and the new slots. Decay is taken at y."""
        direction, slots = self.direction(p, g, s, h)
        return direction + h.weight_decay * p, slots

    def averaged(self, p: Any, s: Any, h: Any) -> Any:
        """x from y: the average, to evaluate on."""
        return lerp(p, s.z, 1 - 1 / self.momentum_of(h))

    def training(self, p: Any, s: Any, h: Any) -> Any:
        """y from x: back to the weights to train on."""
        return lerp(p, s.z, 1 - self.momentum_of(h))


class WarmUp(_Mixin):
    """A linear warm-up: γₜ = γ·min(1, t / warmup_steps)."""

    def rate(self, s: Any, h: Any) -> Any:
        return h.lr * self.warmed_up(s, h)

    def warmed_up(self, s: Any, h: Any) -> Any:
        """The share of the rate that the warm-up has reached."""
        return where(s.step < h.warmup_steps, s.step / maximum(h.warmup_steps, 1.0), 1.0)


SHARED_SLOTS = (Slot("z", start="weights"), Slot("lr_max", scalar=True), Slot("weight_sum", scalar=True))


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(Interpolation, Rule, abstract=True):
    """What the hyper-parameters of Schedule-Free rules have in common."""

    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0
    decay: Literal["inside"] = "inside"


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeSGD(WarmUp, ScheduleFree):
    """Schedule-Free SGD (arXiv:2405.15682, eqs. 3–5): d = g.

    Args:
        lr: learning rate γ per step, constant after warm-up.
        momentum: β in (0, 1).
        weight_decay: λ, at least 0, added to the gradient at y.
        warmup_steps: steps of linear warm-up, a whole number (never a share).
        r: power of the step in the average's weights.
        weight_lr_power: power of the largest rate so far in the average's weights.
    """

    lr: NonNegative = 1.0
    momentum: OpenFraction = 0.9
    weight_decay: NonNegative = 0.0
    warmup_steps: Whole = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    slots = SHARED_SLOTS

    def momentum_of(self, h: Any) -> Any:
        return h.momentum

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return g, {}


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(WarmUp, ScheduleFree):
    """Schedule-Free AdamW (arXiv:2405.15682, Alg. 1): d = g / (√v̂ + ε), without Adam's first moment.

    Args:
        lr: learning rate γ per step, constant after warm-up.
        betas: (β, β₂), β in (0, 1) and β₂ in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0, taken at y.
        warmup_steps: steps of linear warm-up, a whole number (never a share).
        r: power of the step in the average's weights.
        weight_lr_power: power of the largest rate so far in the average's weights.
    """

    lr: NonNegative = 2.5e-3
    betas: tuple[OpenFraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    warmup_steps: Whole = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    moves_by_rate = True
    slots = (Slot("exp_avg_sq", positive=True), *SHARED_SLOTS)

    def momentum_of(self, h: Any) -> Any:
        return h.betas[0]

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta2 = h.betas[1]
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        root = sqrt(exp_avg_sq / (1 - beta2**s.step))
        return g / (root + h.eps), {"exp_avg_sq": exp_avg_sq}


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeRAdam(ScheduleFree):
    """Schedule-Free with RAdam's rectification for a warm-up (the authors' schedulefree 1.4, RAdamScheduleFree).

        γₜ = γ·rₜ,   dₜ = gₜ / (√v̂ₜ + ε)     once ρₜ > 4
        γₜ = 0                               before; γₜ = γ and dₜ = gₜ with silent_sgd_phase=False

    rₜ and ρₜ are those of `stepwell.rules.radam.rectification`; with β₂ = 0.999 the first phase has 4 steps.

    Args:
        lr: learning rate γ per step, at least 0.
        betas: (β, β₂), β in (0, 1) and β₂ in [0, 1). A β₂ up to 0.6 never leaves the first phase.
        eps: ε, at least 0.
        weight_decay: λ, at least 0, taken at y.
        r: power of the step in the average's weights.
        weight_lr_power: power of the largest rate so far in the average's weights.
        silent_sgd_phase: stand still in the first phase; False takes plain gradient steps there.
    """

    lr: NonNegative = 2.5e-3
    betas: tuple[OpenFraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0
    silent_sgd_phase: bool = True

    moves_by_rate = True
    slots = (Slot("exp_avg_sq", positive=True), *SHARED_SLOTS)

    def momentum_of(self, h: Any) -> Any:
        return h.betas[0]

    def rate(self, s: Any, h: Any) -> Any:
        known, rectified = rectification(h.betas[1], s.step, 4.0)
        return h.lr * where(known, rectified, 0.0 if h.silent_sgd_phase else 1.0)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta2 = h.betas[1]
        known, _ = rectification(beta2, s.step, 4.0)
        exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        root = sqrt(exp_avg_sq / (1 - beta2**s.step))
        return where(known, g / (root + h.eps), g), {"exp_avg_sq": exp_avg_sq}
