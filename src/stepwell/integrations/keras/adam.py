"""Keras's Adam as a rule, and the optimizer of `transformers` (4.34) for TensorFlow that is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from stepwell.algebra import lerp, maximum, sqrt, square
from stepwell.integrations.keras.optimizer import Optimizer
from stepwell.integrations.keras.schedules import WarmUp
from stepwell.rules.hyper import Count, Fraction, NonNegative, Positive, Whole, validated
from stepwell.rules.rule import Decay, Rule, Slot


@dataclass(frozen=True, kw_only=True)
class KerasAdam(Rule):
    """Adam as Keras has it: the form of Kingma & Ba 2015 (arXiv:1412.6980) at the end of sec. 2, whose ε is ε̂.

        m = β₁·m + (1 − β₁)·g,   v = β₂·v + (1 − β₂)·g²
        θ = θ − η·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε̂)

    ε̂ is not divided by √(1 − β₂ᵗ), so that it weighs more in the first steps than the ε of `stepwell.rules.Adam`.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε̂, at least 0.
        weight_decay: λ, at least 0, decoupled.
        amsgrad: divide by the largest v so far.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-7
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False
    decay: Decay = "decoupled"

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if self.amsgrad else ("exp_avg", "exp_avg_sq")

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = largest = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        if h.amsgrad:
            largest = slots["max_exp_avg_sq"] = maximum(s.max_exp_avg_sq, exp_avg_sq)
        correction = sqrt(1 - beta2**s.step) / (1 - beta1**s.step)
        return correction * exp_avg / (sqrt(largest) + h.eps), slots


@keras.saving.register_keras_serializable(package="stepwell")
class AdamWeightDecay(Optimizer):
    """Adam with decoupled weight decay, under the name that `transformers` (4.34) had for it on TensorFlow.

    Before each step a variable loses the share learning rate · `weight_decay_rate`, where its path ("encoder/bias") is
    found by a pattern of `include_in_weight_decay`, or by none of `exclude_from_weight_decay`: the first goes before
    the second. The rest is `KerasAdam`.

    The arguments are those of 4.34. In two points it is another: `get_config` there left out both lists of patterns, so
    that a model that was saved and loaded decayed everything; and the patterns there met the names of Keras 2, which
    end in ":0", so that a pattern with "$" found nothing.

    Args:
        learning_rate: a number at least 0, a Keras schedule, or a function without arguments.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε̂, at least 0.
        amsgrad: divide by the largest second moment so far.
        weight_decay_rate: λ, at least 0.
        include_in_weight_decay: regular expressions; what one of them finds is decayed in any case.
        exclude_from_weight_decay: regular expressions; what one of them finds is not decayed.
        name: what to call it.
        kwargs: as for `stepwell.integrations.keras.Optimizer`; besides, `lr` is another name of `learning_rate`, and
            `decay` δ divides a constant learning rate by 1 + δ·t at step t, counted from 0.

    Raises TypeError or ValueError for a value of the wrong type or out of its range.
    """

    exclude_from_weight_decay: Any  # the patterns, as in 4.34; a method of other Keras optimizers

    def __init__(
        self,
        learning_rate: float | Callable[..., Any] = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay_rate: float = 0.0,
        include_in_weight_decay: Sequence[str] | None = None,
        exclude_from_weight_decay: Sequence[str] | None = None,
        name: str = "AdamWeightDecay",
        **kwargs: Any,
    ) -> None:
        named = "lr" if "lr" in kwargs else "learning_rate"
        rate: Any = kwargs.pop("lr", learning_rate)
        if not callable(rate):
            rate = validated(named, rate, NonNegative)
        if decay := kwargs.pop("decay", None):
            if callable(rate):
                raise ValueError(f"decay={decay!r} needs a learning rate that is a number, and this one is scheduled")
            rate = keras.optimizers.schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=decay)
        if kwargs.pop("weight_decay", None) is not None:
            raise ValueError("weight_decay is called weight_decay_rate here")
        rule = KerasAdam(
            lr=1e-3 if callable(rate) else rate,
            betas=(validated("beta_1", beta_1, Fraction), validated("beta_2", beta_2, Fraction)),
            eps=validated("epsilon", epsilon, NonNegative),
            amsgrad=amsgrad,
            weight_decay=validated("weight_decay_rate", weight_decay_rate, NonNegative),
        )
        super().__init__(rule, rate, name=name, **kwargs)
        self.include_in_weight_decay = _patterns("include_in_weight_decay", include_in_weight_decay)
        self.exclude_from_weight_decay = _patterns("exclude_from_weight_decay", exclude_from_weight_decay)

    @property
    def weight_decay_rate(self) -> float:
        """λ."""
        return float(self.rule.weight_decay)

    def _use_weight_decay(self, variable: Any) -> bool:
        path = getattr(variable, "path", variable.name)
        return _finds(self.include_in_weight_decay, path) or not _finds(self.exclude_from_weight_decay, path)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal one of."""
        rule: Any = self.rule
        config = super().get_config()
        for name in ("rule", "horizon", "schedules", "outputs"):
            del config[name]
        return {
            **config,
            "beta_1": rule.betas[0],
            "beta_2": rule.betas[1],
            "epsilon": rule.eps,
            "amsgrad": rule.amsgrad,
            "weight_decay_rate": rule.weight_decay,
            "include_in_weight_decay": list(self.include_in_weight_decay),
            "exclude_from_weight_decay": list(self.exclude_from_weight_decay),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> AdamWeightDecay:
        """The optimizer that `get_config` described; a `WarmUp` in it is known by that name alone, too."""
        known = {"WarmUp": WarmUp, **(custom_objects or {})}
        optimizer: AdamWeightDecay = super(Optimizer, cls).from_config(dict(config), known)
        return optimizer


def _patterns(name: str, given: Sequence[str] | None) -> list[str]:
    """Regular expressions. Raises TypeError or ValueError for what is none."""
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list of patterns, got {given!r}; write [{given!r}]")
    for pattern in given or ():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"{name} holds {pattern!r}, which is no regular expression: {error}") from None
    return list(given or ())


def _finds(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def create_optimizer(
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    min_lr_ratio: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    adam_clipnorm: float | None = None,
    adam_global_clipnorm: float | None = None,
    weight_decay_rate: float = 0.0,
    power: float = 1.0,
    include_in_weight_decay: Sequence[str] | None = None,
) -> tuple[Any, Any]:
    """An optimizer and its schedule, as `transformers` (4.34) made them for TensorFlow.

    The rate rises in a line over `num_warmup_steps`, from 0 at the first update, which so moves nothing; then it falls
    to `init_lr · min_lr_ratio` at `num_train_steps`, as the `power` of what is left, and stays there.

    Args:
        init_lr: the rate at the end of the warm-up, at least 0.
        num_train_steps: total steps, more than `num_warmup_steps`: as many made every later rate NaN there.
        num_warmup_steps: steps of the warm-up, a whole number at least 0.
        min_lr_ratio: the last rate, as a share of `init_lr`, at least 0.
        adam_beta1: β₁ in [0, 1).
        adam_beta2: β₂ in [0, 1).
        adam_epsilon: ε̂, at least 0.
        adam_clipnorm: the norm to clip each gradient to, or None.
        adam_global_clipnorm: the norm to clip all gradients to together, or None.
        weight_decay_rate: above 0 the optimizer is `AdamWeightDecay`, which spares biases and layer norms; at 0 it is
            `keras.optimizers.Adam`.
        power: of the decay, above 0; the warm-up is a line in any case.
        include_in_weight_decay: regular expressions; what one of them finds is decayed in any case.

    Returns:
        The optimizer, and the schedule: step → rate.

    Raises TypeError or ValueError for a value of the wrong type or out of its range.
    """
    warmup_steps = validated("num_warmup_steps", num_warmup_steps, Whole)
    num_train_steps = validated("num_train_steps", num_train_steps, Count)
    if num_train_steps <= warmup_steps:
        raise ValueError(f"num_train_steps must be more than num_warmup_steps={warmup_steps}, got {num_train_steps}")
    schedule: Any = keras.optimizers.schedules.PolynomialDecay(
        initial_learning_rate=validated("init_lr", init_lr, NonNegative),
        decay_steps=num_train_steps - warmup_steps,
        end_learning_rate=init_lr * validated("min_lr_ratio", min_lr_ratio, NonNegative),
        power=validated("power", power, Positive),
    )
    if warmup_steps:
        schedule = WarmUp(init_lr, schedule, warmup_steps)
    shared = {
        "learning_rate": schedule,
        "beta_1": adam_beta1,
        "beta_2": adam_beta2,
        "epsilon": adam_epsilon,
        "clipnorm": adam_clipnorm,
        "global_clipnorm": adam_global_clipnorm,
    }
    if weight_decay_rate == 0:
        return keras.optimizers.Adam(**shared), schedule
    optimizer = AdamWeightDecay(
        **shared,
        weight_decay_rate=weight_decay_rate,
        include_in_weight_decay=include_in_weight_decay,
        exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
    )
    return optimizer, schedule
