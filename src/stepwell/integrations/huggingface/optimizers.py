"""The optimizers of transformers 4.34 under their names, signatures and defaults, with their arithmetic to the letter.

Each is a rule that runs in every engine, and a class with the signature of the original. They are for a training that
has to go on as it was; where nothing has to, `stepwell.AdamW` and `stepwell.Adafactor` keep closer to the papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from stepwell import rules
from stepwell.algebra import lerp, minimum, sqrt, square
from stepwell.optimizer import Optimizer
from stepwell.rules.adafactor import relative_in_words, root_mean_square
from stepwell.rules.hyper import Fraction, NonNegative, validated
from stepwell.rules.rule import Rule, Slot, tensor_wise


@dataclass(frozen=True, kw_only=True)
class TransformersAdamW(Rule):
    """Adam that decays the weights after its step (transformers 4.34, `AdamW`; after BERT's optimizer).

        m = β₁·m + (1 − β₁)·g,   v = β₂·v + (1 − β₂)·g²
        θ = (1 − η·λ)·(θ − ηₜ·m / (√v + ε)),   ηₜ = η·√(1 − β₂ᵗ) / (1 − β₁ᵗ)

    It corrects the bias in the rate, so that ε is added to the uncorrected √v, where Adam's paper and torch add it to
    √v̂; and AdamW's paper and torch decay before the step.

    Args:
        lr: learning rate η per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0.
        correct_bias: False leaves ηₜ at η, as BERT did.
    """

    lr: NonNegative = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0
    correct_bias: bool = True
    decay: Literal["inside"] = "inside"

    moves_by_rate = True
    slots = ("exp_avg", "exp_avg_sq")

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        beta1, beta2 = h.betas
        exp_avg = lerp(s.exp_avg, g, 1 - beta1)
        exp_avg_sq = lerp(s.exp_avg_sq, square(g), 1 - beta2)
        rate = h.lr
        if h.correct_bias:
            rate = rate * sqrt(1 - beta2**s.step) / (1 - beta1**s.step)
        p = p - rate * exp_avg / (sqrt(exp_avg_sq) + h.eps)
        return (1 - h.lr * h.weight_decay) * p, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}


@dataclass(frozen=True, kw_only=True)
class TransformersAdafactor(rules.Adafactor):
    """Adafactor whose relative step knows no learning rate (transformers 4.34 and 5, `Adafactor`).

        ρ = min(0.01, 1/√t)          relative_step
        ρ = min(10⁻⁶·t, 1/√t)        relative_step and warmup_init
        ρ = η                        else

    All else, and the other arguments, are those of `stepwell.rules.Adafactor`. It remembers RMS(θ), which scaled the
    last step, so that a schedule can tell the rate.

    Args:
        lr: η, at least 0; None with `relative_step`, which overlooks it.
    """

    lr: NonNegative | None = None  # type: ignore[assignment]
    decay: Literal["inside"] = "inside"

    def __post_init__(self) -> None:
        lr = self.lr
        super().__post_init__()
        object.__setattr__(self, "lr", lr)  # None stays None in the groups, as in the original
        if lr is None and not self.relative_step:
            raise ValueError("relative_step=False needs lr, the learning rate, got None")

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        moments = super().slots
        return (*moments, Slot("RMS", shape=tensor_wise, wide=True)) if self.scale_parameter else moments

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        updated, slots = super().update(p, g, s, h)
        return updated, {**slots, "RMS": root_mean_square(p)} if h.scale_parameter else slots

    def own_slots(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs = {"exp_avg_sq", "exp_avg_sq_row"}  # beside RMS: Adam has one of them, too
        if "RMS" not in saved or not theirs & set(saved):
            return saved
        slots = {name: value for name, value in saved.items() if name in ("step", "exp_avg")}
        if "exp_avg_sq" in saved:
            slots["variance"] = saved["exp_avg_sq"]
        if "exp_avg_sq_row" in saved:  # rows and columns have a dimension less there
            slots["row_var"] = saved["exp_avg_sq_row"].unsqueeze(-1)
            slots["col_var"] = saved["exp_avg_sq_col"].unsqueeze(-2)
        if self.scale_parameter:
            slots["RMS"] = torch.as_tensor(saved["RMS"], dtype=torch.float32)
        return slots

    @property
    def own_rate(self) -> str:
        return relative_in_words("10⁻⁶·t" if self.warmup_init else "0.01", self)

    def relative_rate(self, s: Any, h: Any) -> Any:
        if not h.relative_step:
            return h.lr
        return minimum(1e-6 * s.step if h.warmup_init else 1e-2, 1 / sqrt(s.step))


class AdamW(Optimizer):
    """`AdamW` of transformers 4.34, step by step; it is gone from transformers 5.

    It is not torch's: see `TransformersAdamW`, the rule that it runs.

    Args:
        params: tensors, `(name, tensor)` pairs, or group dicts.
        lr: learning rate per step, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: decoupled weight decay, at least 0.
        correct_bias: correct Adam's bias; BERT's optimizer did not.
        no_deprecation_warning: for code that switches transformers' warning off: nothing here warns.

    Raises:
        ValueError: a value out of its range.
        TypeError: a value of the wrong type.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        no_deprecation_warning: bool = False,
    ) -> None:
        validated("no_deprecation_warning", no_deprecation_warning, bool)
        rule = TransformersAdamW(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, correct_bias=correct_bias)
        super().__init__(params, rule)


class Adafactor(Optimizer):
    """`Adafactor` of transformers 4.34 and 5, step by step; `AdafactorSchedule` tells the rates that it finds.

    Args:
        params: tensors, `(name, tensor)` pairs, or group dicts.
        lr: learning rate per step, at least 0, with `relative_step=False`; else None.
        eps: (ε₁, ε₂), each at least 0: what is added to g², and the least RMS of a parameter that scales its step.
        clip_threshold: the largest root mean square of an update, above 0.
        decay_rate: τ of β̂₂ = 1 − t^τ, at most 0.
        beta1: the momentum's, in [0, 1); None for no momentum.
        weight_decay: at least 0; the weights shrink by the rate of the step times it.
        scale_parameter: multiply the rate by the parameter's root mean square.
        relative_step: let the rate be min(0.01, 1/√t).
        warmup_init: let the relative step begin with 10⁻⁶·t.

    Raises:
        ValueError: a value out of its range; `lr` and `relative_step=True` together (also in a group), or neither;
            `warmup_init=True` without `relative_step=True`.
        TypeError: a value of the wrong type.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        rule = TransformersAdafactor(
            lr=lr,
            eps=eps,
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            beta1=beta1,
            weight_decay=weight_decay,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            warmup_init=warmup_init,
        )
        _check_one_rate(lr, relative_step)
        super().__init__(params, rule)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, also in mid-training. Raises where a key, a value or a parameter is not what it should be."""
        if isinstance(param_group, Mapping) and "rule" not in param_group:
            _check_one_rate(param_group.get("lr"), param_group.get("relative_step", self.defaults["relative_step"]))
        super().add_param_group(param_group)

    @staticmethod
    def _get_lr(param_group: Mapping[str, Any], param_state: Mapping[str, Any]) -> float:
        """The rate of a parameter's last step, from its group and its state; under transformers' name."""
        rate = param_group["lr"]
        if param_group["relative_step"]:
            cap = 1e-6 * param_state["step"] if param_group["warmup_init"] else 1e-2
            rate = min(cap, 1 / math.sqrt(param_state["step"]))
        scale = max(param_group["eps"][1], float(param_state["RMS"])) if param_group["scale_parameter"] else 1.0
        return float(rate) * scale


def _check_one_rate(lr: Any, relative_step: Any) -> None:
    if lr is not None and relative_step is True:
        raise ValueError(
            f"lr must be None with relative_step=True, which finds the rate itself, got {lr!r}; "
            "write relative_step=False to set the rate"
        )
