"""Stepwell's rules and schedules in Keras 3, on its TensorFlow, JAX and torch back ends.

    from stepwell.integrations.keras import LearningRate, Optimizer

    model.compile(optimizer=Optimizer(stepwell.rules.AdamW(lr=3e-4), Cosine(warmup=0.1), horizon=10_000), ...)

Beside them stand the optimizer and the schedule that `transformers` (4.34) had for TensorFlow, under its names:
`AdamWeightDecay`, `WarmUp`, `create_optimizer`, `GradientAccumulator`. See docs/keras.md.
"""

from stepwell.integrations.needing import needed

needed("keras", extra="keras", least="3.6")

from stepwell.integrations.keras.accumulator import GradientAccumulator  # noqa: E402
from stepwell.integrations.keras.adam import AdamWeightDecay, KerasAdam, create_optimizer  # noqa: E402
from stepwell.integrations.keras.optimizer import Optimizer  # noqa: E402
from stepwell.integrations.keras.schedules import LearningRate, WarmUp  # noqa: E402

__all__ = [
    "AdamWeightDecay",
    "GradientAccumulator",
    "KerasAdam",
    "LearningRate",
    "Optimizer",
    "WarmUp",
    "create_optimizer",
]
