"""One rule as a Keras optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from stepwell.integrations.course import Course
from stepwell.integrations.keras.numbers import KerasNumber
from stepwell.integrations.keras.schedules import LearningRate, number_dtype
from stepwell.integrations.views import Outputs, View, check_outputs
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, namespace
from stepwell.rules.wrappers import SAM
from stepwell.schedules import Schedule, from_dict, to_dict

Rate = float | Schedule | Callable[..., Any]


@keras.saving.register_keras_serializable(package="stepwell")
class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Any rule that acts on elements or tensors, on every back end of Keras.

        model.compile(optimizer=Optimizer(AdamW(lr=3e-4), Cosine(warmup=0.1), horizon=10_000), ...)

    Weight decay is the rule's, with the rule's meaning; `exclude_from_weight_decay` spares variables as in every Keras
    optimizer. Clipping, loss scaling, accumulation and Keras's own moving average are the base class's. Variables of 16
    bits are worked out in float32, and slots have the dtype of their variable.

    Args:
        rule: the rule; it may be one of your own or inside a wrapper.
        learning_rate: a number, a Keras schedule, or a stepwell schedule, which multiplies the rule's rate; by default
            the rule's rate.
        horizon: total optimizer steps, at least 1, for schedules that have no horizon of their own.
        schedules: stepwell schedules of other hyper-parameters, by name; an element of a tuple goes by its index
            (`{"betas[0]": Linear(end=0.9)}`).
        outputs: the axis that counts a layer's outputs: "last", as Keras has it, or "first", as torch has it. It
            matters to rules with a number for each row alone, such as `AdamMini`.
        name: what to call it; by default the rule's name.
        kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`.

    Raises:
        TypeError: for what is no rule, an unknown hyper-parameter, or what is no schedule.
        ValueError: a rule of whole matrices, or `sam`; a value out of its range; a horizon that is needed and not
            known; an argument that Keras does not know.
    """

    def __init__(
        self,
        rule: Rule,
        learning_rate: Rate | None = None,
        *,
        horizon: int | None = None,
        schedules: Mapping[str, Schedule | Callable[[Any], Any]] | None = None,
        outputs: Outputs = "last",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._check_rule(rule)
        check_outputs(outputs)
        if kwargs.get("weight_decay") is not None:
            raise ValueError(f"weight_decay is the rule's: {type(rule).__name__}(weight_decay={kwargs['weight_decay']})")
        kwargs.pop("weight_decay", None)
        schedules = dict(schedules or {})
        if "lr" in schedules:
            raise TypeError("the schedule of the learning rate is given as learning_rate")
        rate: Any = rule.lr if learning_rate is None else learning_rate
        if isinstance(rate, Schedule):
            rate = LearningRate(rate, rule.lr, horizon)
        super().__init__(rate if callable(rate) else float(rate), name=name or type(rule).__name__, **kwargs)
        self.rule = rule
        self.outputs = outputs
        self.horizon = horizon
        self._schedules = _Kept(schedules)
        self._course = Course(rule, horizon, schedules)
        self._views: list[View] = []
        self._slots: dict[str, list[Any]] = {}
        self._numbers: dict[str, Any] = {}
        self._places: list[str] = []

    @staticmethod
    def _check_rule(rule: Any) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a stepwell.Rule such as stepwell.rules.AdamW(), got {rule!r}")
        name = type(rule).__name__
        if rule.acts_on == "matrices":
            raise ValueError(
                f"{name} acts on whole matrices, and a Keras optimizer runs rules of elements and tensors; on the JAX "
                "back end stepwell.integrations.optax.transformation runs it in a loop of your own"
            )
        if isinstance(rule, SAM):
            raise ValueError(f"{name} needs the gradients at a second point, which a Keras optimizer cannot ask for")

    def build(self, variables: Sequence[Any]) -> None:
        """Make the slots of these variables."""
        if self.built:
            return
        super().build(variables)
        self._views = [View(self.rule, tuple(variable.shape), self.outputs) for variable in variables]
        self._places = [getattr(variable, "path", variable.name) for variable in variables]
        for slot in self.rule.slot_list():
            if slot.scalar:
                self._numbers[slot.name] = self.add_variable((), dtype=number_dtype(), name=slot.name)
        names = dict.fromkeys(slot.name for view in self._views for slot in view.rule.slot_list() if not slot.scalar)
        for name in names:
            self._slots[name] = [
                self._new_slot(name, view, variable) for view, variable in zip(self._views, variables, strict=True)
            ]
