"""Gradients added up over several batches, under the name that `transformers` (4.34) had for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


class GradientAccumulator:
    """Adds up gradients, to apply them together.

        accumulator(gradients)
        if accumulator.step == 4:
            optimizer.apply([gradient / 4 for gradient in accumulator.gradients], model.trainable_variables)
            accumulator.reset()

    Where every gradient was None, their sum is None. TensorFlow lets a `tf.function` make variables in its first trace
    alone: where a gradient that is None there comes in a later trace, hand in zeros for it at first.

    Under `tf.distribute` each replica adds up its own: there it is called, and its sums are read, within
    `strategy.run`.

    For loops of your own: `model.fit` accumulates where the optimizer is given `gradient_accumulation_steps`, which
    takes the mean.
    """

    def __init__(self) -> None:
        self._gradients: list[Any] = []
        self._step: Any = None

    @property
    def step(self) -> Any:
        """How many gradients have been added up since the last reset, as a tensor."""
        if self._step is None:
            self._step = _variable((), "int64" if keras.backend.backend() == "tensorflow" else "int32")
        return _value(self._step)

    @property
    def gradients(self) -> list[Any]:
        """The sums, as tensors. Raises ValueError before the first call."""
        if not self._gradients:
            raise ValueError("the accumulator has no gradients yet: call it with the first ones")
        return [None if total is None else _value(total) for total in self._gradients]

    def __call__(self, gradients: Sequence[Any]) -> None:
        """Add gradients, a tensor or None for each parameter. Raises ValueError for another number of them."""
        dense = [None if g is None else keras.ops.convert_to_tensor(g, sparse=False) for g in gradients]
        if not self._gradients:
            _ = self.step  # makes its variable
            self._gradients = [None] * len(dense)
        if len(dense) != len(self._gradients):
            raise ValueError(f"the accumulator holds {len(self._gradients)} gradients, got {len(dense)}")
        for index, g in enumerate(dense):
            if g is None:
                continue
            if self._gradients[index] is None:
                self._gradients[index] = _variable(tuple(g.shape), keras.backend.standardize_dtype(g.dtype))
            self._gradients[index].assign_add(g)
        self._step.assign_add(1)

    def reset(self) -> None:
        """Begin anew, at zero."""
        if self._step is not None:
            self._step.assign(0)
        for total in self._gradients:
            if total is not None:
                total.assign(keras.ops.zeros(total.shape, dtype=total.dtype))


def _variable(shape: tuple[int, ...], dtype: str) -> Any:
    """Zeros, in a variable of which each replica of a `tf.distribute` strategy has its own; outside of the replicas it
    is that of the first."""
    if keras.backend.backend() != "tensorflow":
        return keras.Variable(keras.ops.zeros(shape, dtype=dtype), dtype=dtype, trainable=False)
    import tensorflow as tf

    return tf.Variable(
        lambda: tf.zeros(shape, dtype),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _value(variable: Any) -> Any:
    return variable.value() if keras.backend.backend() == "tensorflow" else keras.ops.convert_to_tensor(variable)
