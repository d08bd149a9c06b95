"""A Keras model trained with stepwell's rules and schedules, on the back end that KERAS_BACKEND names."""

from __future__ import annotations

import keras
import numpy as np

from stepwell.integrations.keras import Optimizer
from stepwell.rules import AdamW, cautious
from stepwell.schedules import WSD

EPOCHS, BATCH_SIZE, SAMPLES = 8, 32, 512


def rings(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points on two rings, (samples, 2), and which of them each is on, (samples,)."""
    generator = np.random.default_rng(seed)
    ring = generator.integers(2, size=samples)
    angle = generator.uniform(0, 2 * np.pi, samples)
    radius = 1.0 + ring + generator.normal(0, 0.15, samples)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points.astype("float32"), ring.astype("float32")


def main() -> float:
    """Train, and return the share of held-out points that are told right."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((2,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    steps = EPOCHS * SAMPLES // BATCH_SIZE
    rule = cautious(AdamW(lr=1e-2, weight_decay=0.1))
    optimizer = Optimizer(rule, WSD(warmup=0.1), horizon=steps, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
    model.fit(*rings(SAMPLES), batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    _, accuracy = model.evaluate(*rings(256, seed=1), verbose=0)
    print(f"{accuracy:.1%} after {steps} steps on {keras.backend.backend()}")
    return float(accuracy)


if __name__ == "__main__":
    main()
