"""Stepwell's rules, schedules and recipes as optax's transformations.

    from stepwell.integrations.optax import transformation

    optimizer = transformation(stepwell.rules.AdamW(lr=3e-4), lr=Cosine(warmup=0.1), horizon=10_000)

The rules are the very same: a number is a `jax.Array` here. See docs/jax.md.
"""

from stepwell.integrations.needing import needed

needed("optax", extra="jax", least="0.2.4")

from stepwell.integrations.optax.averages import averaged  # noqa: E402
from stepwell.integrations.optax.partition import partition  # noqa: E402
from stepwell.integrations.optax.transformation import RuleState, transformation  # noqa: E402

__all__ = ["RuleState", "averaged", "partition", "transformation"]
