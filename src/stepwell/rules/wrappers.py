"""Wrappers: each takes any rule that it fits, and gives a rule.

A wrapper is written in the same algebra as the rules, so what it changes is part of the same kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from stepwell.algebra import floor, lerp, maximum, mean, where
from stepwell.rules.hyper import Fraction, NonNegative, OpenFraction, Positive, Range, Whole
from stepwell.rules.rule import Rule, Slot
from stepwell.rules.schedule_free import SHARED_SLOTS, Interpolation, WarmUp
from stepwell.rules.wrapping import Wrapper, gives_a_direction, wrapped


class Cautious(Wrapper):
    """Only the elements whose step agrees in sign with the gradient move (Liang et al. 2024, arXiv:2411.16085, Alg. 1).

        mₜ = 1[dₜ·gₜ > 0],   dₜ ← dₜ·mₜ / max(mean(mₜ), ξ)

    The mean, over each parameter, keeps the step's size as elements are left out. Weight decay stays whole, unless the
    rule has it in its direction (`decay="inside"`, as LAMB, LARS, NovoGrad, Prodigy and StableAdamW do by default, and
    Scion's pull into its ball): then it is masked with that.

    Args:
        least_share: ξ, the least mean that a step is divided by.
    """

    word = "cautious"
    reduces = True

    least_share: Positive = 1e-3

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        return None if gives_a_direction(rule) else "it masks a rule's direction, and this rule gives a whole update"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        direction, slots = super().direction(p, g, s, h)
        agrees = where(direction * g > 0, 1.0, 0.0)
        return direction * agrees / maximum(mean(agrees), h.least_share), slots


class Lookahead(Wrapper):
    """Slow weights that follow the fast ones every k steps (Zhang et al. 2019, arXiv:1907.08610, Alg. 1).

        every k steps:   φ ← φ + α·(θ − φ),   θ ← φ

    Args:
        sync_period: k, a whole number of steps, at least 1.
        slow_step: α in (0, 1].
    """

    word = "lookahead"

    sync_period: Annotated[float, Range(low=1, whole=True)] = 5
    slow_step: Annotated[float, Range(low=0, high=1, open_low=True)] = 0.5

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        return "it keeps an average of its own" if _has_average(rule) else None

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return (*super().slots, Slot("slow_weights", start="weights"))

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        fast, slots = super().update(p, g, s, h)
        is_sync = floor(s.step / h.sync_period) * h.sync_period >= s.step
        slow = lerp(s.slow_weights, fast, where(is_sync, h.slow_step, 0.0))
        return where(is_sync, slow, fast), {**slots, "slow_weights": slow}


class EMA(Wrapper):
    """An exponential moving average of the weights, to evaluate on (Polyak & Juditsky 1992; Karras et al. 2018).

        x̄ₜ = δₜ·x̄ₜ₋₁ + (1 − δₜ)·θₜ,   δₜ = min(δ, (1 + t) / (10 + t))

    The early steps average over a shorter time, so that the start is forgotten. `with optimizer.averaged():` evaluates
    on x̄, and leaves both to the bit. With `eval()` and `train()` weights and average change places: an average that is
    kept in more bits than the weights is rounded to theirs.

    Args:
        ema_decay: δ in [0, 1).
    """

    word = "ema"

    ema_decay: Fraction = 0.999

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        return "it keeps an average of its own" if _has_average(rule) else None

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return (*super().slots, Slot("ema", start="weights"))

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        weights, slots = super().update(p, g, s, h)
        ramp = (1 + s.step) / (10 + s.step)
        decay = where(h.ema_decay < ramp, h.ema_decay, ramp)
        return weights, {**slots, "ema": lerp(s.ema, weights, 1 - decay)}

    def averaged(self, p: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return s.ema, {"ema": p}

    def training(self, p: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return s.ema, {"ema": p}


class Grokfast(Wrapper):
    """Slow components of the gradient, amplified (Lee et al. 2024, arXiv:2405.20233, Alg. 4, Grokfast-EMA).

        μₜ = α·μₜ₋₁ + (1 − α)·gₜ,   gₜ ← gₜ + λ·μₜ

    Args:
        grok_alpha: α in [0, 1).
        grok_lambda: λ, at least 0.
    """

    word = "grokfast"

    grok_alpha: Fraction = 0.98
    grok_lambda: NonNegative = 2.0

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        return None if rule.measure is Rule.measure else "it measures all gradients before they are amplified"

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return (*super().slots, "slow_gradient")

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        slow = lerp(s.slow_gradient, g, 1 - h.grok_alpha)
        weights, slots = super().update(p, g + h.grok_lambda * slow, s, h)
        return weights, {**slots, "slow_gradient": slow}


class ScheduleFreeOf(WarmUp, Interpolation, Wrapper):
    """Averaging in place of a schedule, around another rule's direction (Defazio et al. 2024, arXiv:2405.15682).

    The rule's own momentum should be off: the interpolation takes its place. A rule that adapts to the gradient's
    scale keeps doing so. Weight decay is taken at y, as part of the direction: it is "coupled" or "decoupled".

    Args:
        interpolation: β in (0, 1), the share of the average in the weights that are trained on.
        warmup_steps: steps of linear warm-up, a whole number (never a share).
        r: power of the step in the average's weights.
        weight_lr_power: power of the largest rate so far in the average's weights.
    """

    word = "schedule_free"

    interpolation: OpenFraction = 0.9
    warmup_steps: Whole = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        if _has_average(rule):
            return "it keeps an average of its own"
        # Also a wrapper's update would be passed by: this one's stands in place of both.
        owner = next(ancestor for ancestor in rule.__mro__ if "update" in vars(ancestor))
        return None if owner is Rule else "it averages a rule's direction, and this rule gives a whole update"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay in ("independent", "proximal"):  # also where it is 0 now: it is live
            raise ValueError(
                f"schedule_free takes weight decay at y, as part of the direction: decay must be 'coupled' or "
                f"'decoupled', got {self.decay!r}"
            )

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return (*super().slots, *SHARED_SLOTS)

    def rate(self, s: Any, h: Any) -> Any:
        # The rule's own: LARS and Rprop have the rate in their direction, and Adagrad's falls.
        return super(Interpolation, self).rate(s, h) * self.warmed_up(s, h)

    def weighing_rate(self, s: Any, h: Any) -> Any:
        return h.lr * self.warmed_up(s, h)

    def momentum_of(self, h: Any) -> Any:
        return h.interpolation

    def decayed_direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        if h.decay == "coupled":
            g = g + h.weight_decay * p
        direction, slots = self.direction(p, g, s, h)
        return (direction + h.weight_decay * p if h.decay == "decoupled" else direction), slots


class SAM(Wrapper):
    """Steps along the gradient taken at the sharpest point nearby (Foret et al. 2021, arXiv:2010.01412, Alg. 1).

        ε = ρ·g(θ) / ‖g(θ)‖₂,   then one step of the rule from θ along g(θ + ε)

    The norm is taken over all parameters of such groups. `optimizer.step(closure)` calls the closure, which clears the
    gradients, works out the loss and its gradients and returns it, twice, and returns the first loss.

    Args:
        rho: ρ, the radius of the neighbourhood, at least 0.
    """

    word = "sam"

    rho: NonNegative = 0.05


def _has_average(rule: type[Rule]) -> bool:
    return hasattr(rule, "averaged")


def cautious(rule: Rule, *, least_share: float = 1e-3) -> Rule:
    """The rule, moving only elements whose step agrees with the gradient: see `Cautious`."""
    return wrapped(Cautious, rule, least_share=least_share)


def lookahead(rule: Rule, k: int = 5, alpha: float = 0.5) -> Rule:
    """The rule, with slow weights that it returns to every k steps: see `Lookahead`."""
    return wrapped(Lookahead, rule, sync_period=k, slow_step=alpha)


def ema(rule: Rule, decay: float = 0.999) -> Rule:
    """The rule, with an average of the weights to evaluate on: see `EMA`."""
    return wrapped(EMA, rule, ema_decay=decay)


def grokfast(rule: Rule, alpha: float = 0.98, lamb: float = 2.0) -> Rule:
    """The rule, on gradients whose slow part is amplified: see `Grokfast`."""
    return wrapped(Grokfast, rule, grok_alpha=alpha, grok_lambda=lamb)


def schedule_free(
    rule: Rule,
    *,
    interpolation: float = 0.9,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Rule:
    """The rule, with averaging in place of a schedule: see `ScheduleFreeOf`."""
    return wrapped(
        ScheduleFreeOf,
        rule,
        interpolation=interpolation,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
    )


def sam(rule: Rule, rho: float = 0.05) -> Rule:
    """The rule, on gradients taken at the sharpest point nearby: see `SAM`."""
    return wrapped(SAM, rule, rho=rho)
