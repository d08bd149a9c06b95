"""One rule as an `optax.GradientTransformation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stepwell.integrations.course import Course
from stepwell.integrations.optax.parameter import Parameter, starting_slots
from stepwell.integrations.views import Outputs, View, check_outputs
from stepwell.rules.hyper import is_shaping, is_switch
from stepwell.rules.rule import Rule, hyper_parameters, namespace
from stepwell.rules.wrappers import SAM
from stepwell.schedules import Schedule


class RuleState(NamedTuple):
    """The state of one rule, a pytree.

    Attributes:
        step: how many updates have been made, an int32.
        slots: by the slot's name, a tree like the parameters'. `optax.MaskedNode()` stands where a parameter's rule
            keeps no such slot (`Adafactor` factors matrices alone).
        numbers: by the slot's name, a number that all parameters share.
        live: the hyper-parameters that can be set between two steps, by name.
    """

    step: Any
    slots: dict[str, Any]
    numbers: dict[str, Any]
    live: dict[str, Any]


def transformation(
    rule: Rule,
    *,
    horizon: int | None = None,
    live: Iterable[str] = (),
    outputs: Outputs = "last",
    **schedules: Schedule | Callable[[Any], Any],
) -> optax.GradientTransformation:
    """The rule, for `optax.chain`, `optax.apply_updates`, `jax.jit`, `jax.lax.scan` and what else takes an optimizer.

        optimizer = transformation(AdamW(lr=3e-4), lr=Cosine(warmup=0.1), horizon=10_000)
        state = optimizer.init(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)

    Parameters of 16 bits are worked out in float32. Slots have the dtype of their parameter, and updates that of
    parameter and gradient, as optax's own have. What is made of hyper-parameters and the step alone is in JAX's own
    floats: float32, unless `jax_enable_x64` is on.

    Args:
        rule: any `stepwell.Rule`, also one of your own or inside a wrapper.
        horizon: total optimizer steps, at least 1, for the schedules that have no horizon of their own.
        live: names of hyper-parameters to keep in the state, where they can be set between two steps, as with
            `optax.inject_hyperparams`: `optax.tree_utils.tree_set(state, lr=1e-4)`.
        outputs: the axis that counts a layer's outputs: "last" for kernels (in, out) and (height, width, in, out), as
            Flax, Haiku and Keras have them; "first" for torch's (out, in). Rules that act on elements do not ask.
        schedules: the schedule of each hyper-parameter, as `stepwell.Scheduler` takes them: a factor of the rule's
            value, or of the live one.

    Raises:
        TypeError: an unknown hyper-parameter, something that is no schedule, or a rule that is none.
        ValueError: a rule that no transformation can express; a horizon that is needed and not known. `init` raises
            for a parameter that the rule does not take, `update` where it gets no parameters.
    """
    live = live if isinstance(live, str) else tuple(live)
    course = Course(rule, horizon, schedules, live)
    check_outputs(outputs)
    check_expressible(rule)
    check_switches(rule, (*live, *schedules))

    def init(params: Any) -> RuleState:
        leaves, tree = jax.tree.flatten(params)
        slots, numbers = starting_slots(rule, [View(rule, leaf.shape, outputs) for leaf in leaves], leaves)
        return RuleState(
            step=jnp.zeros((), jnp.int32),
            slots={name: tree.unflatten(column) for name, column in slots.items()},
            numbers={name: jnp.zeros(()) for name in numbers},
            live={name: jnp.asarray(value) for name, value in course.live.items()},
        )

    def update(gradients: Any, state: RuleState, params: Any = None) -> tuple[Any, RuleState]:
        if params is None:
            raise ValueError(f"{type(rule).__name__} needs the parameters: update(gradients, state, params)")
        leaves, tree = jax.tree.flatten(params)
        columns = {name: tree.flatten_up_to(column) for name, column in state.slots.items()}
        parameters = [
            Parameter(View(rule, leaf.shape, outputs), leaf, gradient, {name: columns[name][index] for name in columns})
            for index, (leaf, gradient) in enumerate(zip(leaves, tree.flatten_up_to(gradients), strict=True))
        ]
        step = state.step + 1
        values = course.at(state.step.astype(float), state.live)
        updates, numbers = updated(parameters, values, {**state.numbers, "step": step.astype(float)})
        slots = {name: tree.unflatten([parameter.slots[name] for parameter in parameters]) for name in columns}
        kept = {name: jnp.asarray(numbers[name]).astype(old.dtype) for name, old in state.numbers.items()}
        return tree.unflatten(updates), RuleState(step, slots, kept, state.live)

    return optax.GradientTransformation(init, update)


def updated(
    parameters: list[Parameter], values: Mapping[str, Any], numbers: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """What to add to each parameter, whose slots are the new ones then, and the new values of the shared numbers."""
    # torch multiplies matrices of float32 in float32; JAX does it on accelerators only where it is told to.
    with jax.default_matmul_precision("highest"):
        totals: dict[str, Any] = {}
        for parameter in parameters:
            for name, amount in parameter.measured(values, numbers).items():
                totals[name] = totals.get(name, 0.0) + amount
        if totals:
            view = parameters[0].view
            h = namespace(view.hyper_parameters(values))
            numbers = {**numbers, **view.rule.settle(totals, namespace(numbers), h)}
        updates, new = [], {}
        for parameter in parameters:
            update, found = parameter.update(values, numbers)
            updates.append(update)
            new.update(found)
    return updates, {**numbers, **new}


def check_switches(rule: Rule, changing: Iterable[str]) -> None:
    """Raise ValueError for a hyper-parameter that changes and has to be known beforehand."""
    known = hyper_parameters(type(rule))
    for name in changing:
        if name in known and is_switch(known[name]):
            raise ValueError(
                f"{name}=0 switches a part of {type(rule).__name__} off, which has to be known before jax.jit: it can "
                "neither be live nor have a schedule"
            )
        if name in known and is_shaping(known[name]):
            raise ValueError(
                f"{name} decides the shape of {type(rule).__name__}'s state: it can neither be live nor have a schedule"
            )


def check_expressible(rule: Rule) -> None:
    """Raise ValueError for a rule that needs more than gradients and parameters."""
    if isinstance(rule, SAM):
        raise ValueError(
            f"{type(rule).__name__} needs the gradients at a second point, which a transformation cannot ask for; "
            "wrap the transformation of the rule inside it in optax.contrib.sam"
        )
