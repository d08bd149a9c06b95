"""A Flax NNX model trained by a recipe: Muon for its hidden matrices, AdamW for the rest, one optax transformation."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from stepwell import Recipe, Route, select
from stepwell.integrations.optax import partition

STEPS, SAMPLES = 60, 256


class Classifier(nnx.Module):
    """Two hidden layers of 32 and a logit."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Linear(2, 32, rngs=rngs)
        self.hidden = nnx.Linear(32, 32, rngs=rngs)
        self.head = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        """Points (samples, 2) → logits (samples,)."""
        return self.head(nnx.relu(self.hidden(nnx.relu(self.embed(points)))))[:, 0]


def rings(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points (samples, 2) on two rings, and which each is on."""
    of_ring, of_angle, of_radius = jax.random.split(key, 3)
    ring = jax.random.bernoulli(of_ring, shape=(SAMPLES,)).astype(float)
    angle = jax.random.uniform(of_angle, (SAMPLES,), maxval=2 * jnp.pi)
    radius = 1.0 + ring + 0.15 * jax.random.normal(of_radius, (SAMPLES,))
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1), ring


def main() -> float:
    """Train, and return the share of held-out points that are told right."""
    model = Classifier(nnx.Rngs(0))
    hidden = Route(rule="Muon", select=select.name("hidden.kernel"), hyper_parameters={"lr": 2e-2})
    routes = (hidden, Route(rule="AdamW", hyper_parameters={"lr": 1e-2}))
    recipe = Recipe(routes=routes, schedules={"lr": "WSD(warmup=0.1)"}, clip_norm=1.0)
    optimizer = nnx.Optimizer(model, partition(recipe, nnx.state(model, nnx.Param), horizon=STEPS), wrt=nnx.Param)

    @nnx.jit
    def step(model: Classifier, optimizer: nnx.Optimizer, points: jax.Array, ring: jax.Array) -> None:
        gradients = nnx.grad(lambda model: optax.sigmoid_binary_cross_entropy(model(points), ring).mean())(model)
        optimizer.update(model, gradients)

    train, test = jax.random.split(jax.random.key(0))
    for _ in range(STEPS):
        step(model, optimizer, *rings(train))
    points, ring = rings(test)
    accuracy = float(((model(points) > 0) == ring).mean())
    print(f"{accuracy:.1%} after {STEPS} steps")
    return accuracy


if __name__ == "__main__":
    main()
