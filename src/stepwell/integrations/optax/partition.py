"""A recipe over a pytree of parameters, as one `optax.GradientTransformation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stepwell.algebra import sqrt, square, total
from stepwell.integrations.optax.pytrees import check_readable, name_of, parameters_of
from stepwell.integrations.optax.transformation import transformation
from stepwell.integrations.views import Outputs
from stepwell.optimizer.gradients import clip_factor
from stepwell.planning.laying import PlannedGroup, lay_over
from stepwell.recipes import Recipe, named
from stepwell.rules.rule import Rule
from stepwell.text.naming import nearest


def partition(
    recipe: Recipe | str, params: Any, *, horizon: int | None = None, outputs: Outputs = "last"
) -> optax.GradientTransformation:
    """The recipe's rules over a pytree, each for the parameters of its routes.

        optimizer = partition(Recipe.preset("adamw"), params, horizon=10_000)

    A parameter's name is its path, joined by dots: `layers.0.kernel`. `select.name`, `regex`, `ndim`, `size` and their
    combinations are answered. A role is known where `Recipe.roles` says it, by name or pattern; of the others so much
    is known: with two or more dimensions it is one of the matrices' (hidden matrix, convolution, embedding, head,
    custom matrix), with fewer one of the rest. So by default matrices decay and the rest does not. `select.module`,
    `depth`, `where` and layer-wise decay need modules, and are refused.

    Clipping and `on_nonfinite` "skip" (as `optax.apply_if_finite`) are part of the transformation. The engine of a
    recipe is torch's business; `state_dtype` and `master` would change the numbers, and are refused.

    Args:
        recipe: what goes where: a `Recipe`, or the name of a preset, a rule or a file.
        params: the pytree, of arrays or of `jax.ShapeDtypeStruct`; nested dicts, Flax NNX's state, and others. Only
            its paths and shapes are looked at.
        horizon: total optimizer steps, at least 1, where schedules need it.
        outputs: the axis that counts outputs, as for `transformation`. Tables whose role is "embedding" are read as
            (tokens, features) in any case.

    Raises:
        RecipeError: where recipe and parameters do not fit, naming every mistake.
        TypeError: for what is no recipe.
        ValueError: for an unknown name; where the recipe asks for what a pytree does not hold, for another storage than
            the parameters', or for a horizon that is not known.
    """
    recipe = named(recipe)
    groups = groups_of(recipe, params)
    labels = {member.name: group.name for group in groups for member in group.members}

    def label(path: tuple[Any, ...], _: Any) -> str:
        if (name := name_of(path)) not in labels:
            raise ValueError(f"no parameter was called {name!r} when the recipe was laid{nearest(name, labels)}")
        return labels[name]

    routed = optax.partition(
        {group.name: _transformation_of(group, horizon, outputs) for group in groups},
        lambda tree: jax.tree.map_with_path(label, tree),
    )
    if recipe.clip_norm is not None:
        routed = optax.chain(_clipped(recipe.clip_norm), routed)
    return optax.apply_if_finite(routed, 2**31 - 1) if recipe.on_nonfinite == "skip" else routed


def groups_of(recipe: Recipe, params: Any) -> tuple[PlannedGroup, ...]:
    """The groups that the recipe makes of a pytree's parameters."""
    if recipe.on_nonfinite == "raise":
        raise ValueError("on_nonfinite='raise' cannot be: nothing is raised under jax.jit; take 'skip'")
    _check_stored_as_it_is(recipe)
    parameters = parameters_of(params, recipe.roles)
    check_readable(recipe, parameters)
    subject = f"recipe {recipe.name!r} on this pytree" if recipe.name else "this recipe on this pytree"
    if not parameters:
        raise ValueError(f"{subject}: there are no parameters to train")
    groups = lay_over(parameters, recipe, subject).groups
    _check_apart(groups)
    return groups


def _check_stored_as_it_is(recipe: Recipe) -> None:
    """Raise ValueError for a recipe that stores state or weights in another way than parameters are."""
    for route in recipe.routes:
        for name, value in recipe.storage_of(route)._asdict().items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} (route {route.name!r}) is for torch alone: on JAX slots have the dtype of their "
                    f"parameter; take {name}=None"
                )


def _check_apart(groups: Sequence[PlannedGroup]) -> None:
    """Raise ValueError for groups that must not be apart: optax gives no part of a partition a look at another."""
    for group in groups:
        kind = type(group.rule)
        names = [other.name for other in groups if type(other.rule) is kind]
        if kind.measure is not Rule.measure and len(names) > 1:
            raise ValueError(
                f"{kind.__name__} works with sums over all its parameters, which the recipe puts into {len(names)} "
                f"groups ({', '.join(map(repr, names))}); let one route have them, and undecayed be '~everything()'"
            )


def _transformation_of(group: PlannedGroup, horizon: int | None, outputs: Outputs) -> optax.GradientTransformation:
    schedules: Mapping[str, Any] = group.schedules
    axis: Outputs = "first" if group.roles == ("embedding",) else outputs
    return transformation(group.rule, horizon=horizon, outputs=axis, **schedules)


def _clipped(limit: float) -> optax.GradientTransformation:
    """Gradients whose global norm is at most `limit`, as torch clips them."""

    def scale(gradients: Any) -> Any:
        leaves = [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(gradients)]
        factor = clip_factor(sqrt(sum(total(square(g)) for g in leaves)), limit)
        return jax.tree.map(lambda g: (g * factor).astype(g.dtype), gradients)

    return optax.stateless(lambda gradients, _: scale(gradients))
