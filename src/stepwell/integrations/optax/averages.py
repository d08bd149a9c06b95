"""The weights to evaluate on, for rules that keep an average."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from stepwell.integrations.course import Course
from stepwell.integrations.optax.partition import groups_of
from stepwell.integrations.optax.pytrees import name_of
from stepwell.integrations.optax.transformation import RuleState
from stepwell.recipes import Recipe, named
from stepwell.rules.rule import Rule, namespace
from stepwell.text.values import shown


def averaged(of: Rule | Recipe | str, state: Any, params: Any) -> Any:
    """The averaged weights of Schedule-Free rules and of those inside `ema`, to evaluate on.

    Training goes on with `params`, as they are. Of a recipe, parameters whose rule keeps no average are given back.

    Args:
        of: the rule of the transformation, or the recipe of the partition, or its name.
        state: the optimizer's state, or that of a chain around it.
        params: the parameters that are trained on.

    Raises:
        TypeError: for what is neither rule nor recipe.
        ValueError: where nothing keeps an average, or the state is not of this rule or recipe.
    """
    if isinstance(of, (Recipe, str)):
        groups = groups_of(named(of), params)
        rules = {group.name: group.rule for group in groups}
        names = {member.name: group.name for group in groups for member in group.members}
    elif isinstance(of, Rule):
        rules, names = {"": of}, {}
    else:
        raise TypeError(f"averaged takes a rule or a recipe, the state, and the parameters, got {shown(of)}")
    if not any(hasattr(rule, "averaged") for rule in rules.values()):
        kinds = dict.fromkeys(type(rule).__name__ for rule in rules.values())
        raise ValueError(f"{' and '.join(kinds)} keep{'s' * (len(kinds) == 1)} no average")
    states = _states(state, rules)
    leaves, tree = jax.tree.flatten_with_path(params)
    columns = {
        label: {name: tree.flatten_up_to(column) for name, column in one.slots.items()} for label, one in states.items()
    }
    weights = []
    for index, (path, weight) in enumerate(leaves):
        label = names.get(name_of(path), "")
        slots = {name: column[index] for name, column in columns[label].items()}
        weights.append(_average(rules[label], weight, slots, states[label]))
    return tree.unflatten(weights)


def _states(state: Any, rules: dict[str, Rule]) -> dict[str, RuleState]:
    """The state of each rule, found by the name under which a partition keeps it."""
    found = jax.tree.flatten_with_path(state, is_leaf=lambda node: isinstance(node, RuleState))[0]
    states = {}
    for path, one in found:
        if isinstance(one, RuleState):
            keys = {key.key for key in path if isinstance(key, jax.tree_util.DictKey)}
            label = next((label for label in rules if label in keys), "")
            states[label] = one
    if states.keys() != rules.keys():
        raise ValueError(
            f"the state holds rules for {sorted(states)}, not for {sorted(rules)}; give the rule or recipe that the "
            "optimizer was made of, and its own state"
        )
    return states


def _average(rule: Rule, weight: Any, slots: dict[str, Any], state: RuleState) -> Any:
    if not hasattr(rule, "averaged"):
        return weight
    dtype = jnp.promote_types(weight.dtype, jnp.float32)
    s = {name: slot.astype(dtype) for name, slot in slots.items() if not isinstance(slot, optax.MaskedNode)}
    h = Course(rule, live=state.live).at(state.step, state.live)
    average, _ = rule.exchange("averaged", weight.astype(dtype), namespace({**s, **state.numbers}), namespace(h))
    return average.astype(weight.dtype)
