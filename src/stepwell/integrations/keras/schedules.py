"""Schedules as Keras takes them: step → learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from stepwell.algebra import maximum, where
from stepwell.integrations.keras.numbers import KerasNumber
from stepwell.rules.hyper import NonNegative, Positive, Whole, validated
from stepwell.schedules import Schedule, from_dict, to_dict
from stepwell.schedules.fields import check_horizon
from stepwell.text.values import shown


def number_dtype() -> str:
    """The dtype of numbers that are made of hyper-parameters and the step alone: at least float32."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


@keras.saving.register_keras_serializable(package="stepwell")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Any stepwell schedule, as a learning rate for any Keras optimizer.

        optimizer = keras.optimizers.Adam(LearningRate(Cosine(warmup=0.1), 3e-4, horizon=10_000))

    Keras hands its optimizers' schedules the number of batches, not of updates, where it accumulates gradients;
    `stepwell.integrations.keras.Optimizer` counts updates.

    Args:
        schedule: what multiplies the learning rate at each step.
        learning_rate: the rate where the factor is 1, at least 0.
        horizon: total optimizer steps, at least 1, for a schedule that has no horizon of its own.

    Raises:
        TypeError: something that is no schedule.
        ValueError: a horizon that is needed and not known, or a value out of its range.
    """

    def __init__(self, schedule: Schedule, learning_rate: float = 1e-3, horizon: int | None = None) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a stepwell schedule, such as Cosine(warmup=0.1), got {shown(schedule)}")
        self.schedule = schedule
        self.learning_rate = validated("learning_rate", learning_rate, NonNegative)
        self.horizon = check_horizon("horizon", horizon)
        self._resolved = schedule.resolve(self.horizon)

    def __call__(self, step: Any) -> Any:
        """The rate at a step (a number, a tensor or a Keras variable), as a tensor."""
        factor = self._resolved(KerasNumber.of(step, number_dtype()))
        rate = self.learning_rate * factor
        return rate.tensor if isinstance(rate, KerasNumber) else keras.ops.convert_to_tensor(rate, number_dtype())

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal one of. A Python function within the schedule goes by its name alone."""
        return {"schedule": to_dict(self.schedule), "learning_rate": self.learning_rate, "horizon": self.horizon}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LearningRate:
        """The schedule that `get_config` described."""
        return cls(**{**config, "schedule": from_dict(config["schedule"])})


@keras.saving.register_keras_serializable(package="stepwell")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A warm-up in front of another schedule, as `transformers` (4.34) had it for TensorFlow.

        initial_learning_rate · (step / warmup_steps)^power     while step < warmup_steps
        decay_schedule_fn(step − warmup_steps)                  from there on

    Args:
        initial_learning_rate: the rate at the end of the warm-up, at least 0.
        decay_schedule_fn: step → rate after it: a Keras schedule or another function of a tensor. A stepwell schedule
            is taken as a factor of the rate; its horizon does not count the warm-up.
        warmup_steps: steps of the warm-up, a whole number at least 0.
        power: the power of the warm-up, above 0; 1 is a line.
        name: what to call it.

    Raises TypeError or ValueError for a value of the wrong type or out of its range.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_schedule_fn: Callable[[Any], Any],
        warmup_steps: int,
        power: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.initial_learning_rate = validated("initial_learning_rate", initial_learning_rate, NonNegative)
        self.warmup_steps = validated("warmup_steps", warmup_steps, Whole)
        self.power = validated("power", power, Positive)
        self.name = name
        if isinstance(decay_schedule_fn, Schedule):
            decay_schedule_fn = LearningRate(decay_schedule_fn, self.initial_learning_rate)
        if not callable(decay_schedule_fn):
            raise TypeError(
                f"decay_schedule_fn must be a schedule or a function of the step, got {shown(decay_schedule_fn)}"
            )
        self.decay_schedule_fn = decay_schedule_fn

    def __call__(self, step: Any) -> Any:
        """The rate at a step (a number, a tensor or a Keras variable), as a tensor."""
        now = KerasNumber.of(step, number_dtype())
        risen = self.initial_learning_rate * (now / max(self.warmup_steps, 1)) ** self.power
        after = self.decay_schedule_fn(maximum(now - self.warmup_steps, 0.0).tensor)
        return where(now < self.warmup_steps, risen, KerasNumber.of(after, number_dtype())).tensor

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal one of."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_schedule_fn": keras.saving.serialize_keras_object(self.decay_schedule_fn),
            "warmup_steps": self.warmup_steps,
            "power": self.power,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WarmUp:
        """The schedule that `get_config` described."""
        given = config["decay_schedule_fn"]
        made = keras.saving.deserialize_keras_object(given) if isinstance(given, Mapping) else given
        return cls(**{**config, "decay_schedule_fn": made})
