"""Accumulates on two replicas of a `MirroredStrategy`, and prints what each saw, as JSON."""

from __future__ import annotations

import json
from typing import Any

import keras
import tensorflow as tf

from stepwell.integrations.keras import AdamWeightDecay, GradientAccumulator, Optimizer
from stepwell.rules import SGD

CALLS = [([1.0, 2.0], [-1.0, 1.0]), ([3.0, -1.0], [-1.0, -1.0]), ([-2.0, 2.0], [3.0, -2.0])]


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(tf.config.list_logical_devices("CPU"))
    with strategy.scope():
        accumulator = GradientAccumulator()
        variable = keras.Variable([4.0, 3.0])
        untouched = keras.Variable([1.0])
        optimizer = Optimizer(SGD(lr=0.1))
        decaying = AdamWeightDecay(0.1, weight_decay_rate=0.5)
        for one in (optimizer, decaying):
            one.build([variable, untouched])

    def per_replica(values: Any) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group])
        )

    @tf.function
    def accumulate(gradient: Any) -> None:
        strategy.run(lambda g: accumulator([g, None]), args=(gradient,))

    @tf.function
    def apply(optimizer: Any) -> None:
        def on_replica() -> None:
            gradients = [g if g is not None else tf.zeros(1) for g in accumulator.gradients]
            optimizer.apply(gradients, [variable, untouched])

        strategy.run(on_replica)

    def sums() -> list[list[float]]:
        found = strategy.run(lambda: accumulator.gradients[0])
        return [one.numpy().tolist() for one in strategy.experimental_local_results(found)]

    said: dict[str, Any] = {}
    for gradients in CALLS:
        accumulate(per_replica(gradients))
    said["step"], said["sums"] = int(accumulator.step), sums()
    apply(optimizer)
    said["weights"] = variable.numpy().tolist()
    apply(decaying)
    said["decayed"] = variable.numpy().tolist()
    accumulator.reset()
    said["step after reset"], said["sums after reset"] = int(accumulator.step), sums()
    accumulate(per_replica(CALLS[0]))
    said["sums again"] = sums()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
