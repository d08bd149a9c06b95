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

    Training goes on with `params`, as they are. Parameters of which no average is kept are given back: those of a
    recipe's other rules, and those that `optax.masked` or `optax.multi_transform` leave to others.

    Args:
        of: the rule of the transformation, or the recipe of the partition, or its name.
        state: the optimizer's state, or that of a chain or the like around it.
        params: the parameters that are trained on.

    Raises:
        TypeError: for what is neither rule nor recipe.
        ValueError: where nothing keeps an average, or the state is not of this rule or recipe, or holds several that
            might be.
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
    states = _states(state, rules) if names else {"": _state_of(rules[""], state)}
    leaves, tree = jax.tree.flatten_with_path(params)
    columns = {
        label: {name: tree.flatten_up_to(_laid_over(params, column)) for name, column in one.slots.items()}
        for label, one in states.items()
    }
    weights = []
    for index, (path, weight) in enumerate(leaves):
        label = names.get(name_of(path), "")
        slots = {name: column[index] for name, column in columns[label].items()}
        weights.append(_average(rules[label], weight, slots, states[label]))
    return tree.unflatten(weights)


def _states(state: Any, rules: dict[str, Rule]) -> dict[str, RuleState]:
    """The state of each rule, found by the name under which a partition keeps it."""
    states = {}
    for path, one in _within(state):
        keys = {key.key for key in path if isinstance(key, jax.tree_util.DictKey)}
        label = next((label for label in rules if label in keys), "")
        states[label] = one
    if states.keys() != rules.keys():
        raise ValueError(
            f"the state holds rules for {sorted(states)}, not for {sorted(rules)}; give the rule or recipe that the "
            "optimizer was made of, and its own state"
        )
    return states


def _state_of(rule: Rule, state: Any) -> RuleState:
    """The state of the rule, among those of others known by what it keeps."""
    own = {slot.name for slot in rule.slot_list()}
    kept = [(one.slots.keys() | one.numbers.keys(), one) for _, one in _within(state)]
    fitting = [one for names, one in kept if names == own] or [one for names, one in kept if names > own]
    kind = type(rule).__name__
    if not fitting:
        there = " and ".join(str(sorted(names)) for names, _ in kept) or "no rule's state"
        raise ValueError(
            f"the state holds {there}, not what {kind} keeps, {sorted(own)}; give the rule or recipe that the "
            "optimizer was made of, and its own state"
        )
    if len(fitting) > 1:
        raise ValueError(
            f"the state holds {len(fitting)} rules that keep what {kind} does; give that of one of them, as "
            "state.inner_states['its label'], and the weights that this gives back to the next"
        )
    return fitting[0]


def _within(state: Any) -> list[tuple[Any, RuleState]]:
    """The rules' states in an optimizer's, each with its path."""
    found = jax.tree.flatten_with_path(state, is_leaf=lambda node: isinstance(node, RuleState))[0]
    return [(path, one) for path, one in found if isinstance(one, RuleState)]


def _laid_over(params: Any, column: Any) -> Any:
    """A slot's tree with an entry for each parameter, also where a whole branch is masked."""

    def below(slot: Any, branch: Any) -> Any:
        return jax.tree.map(lambda _: slot, branch)

    return jax.tree.map(below, column, params, is_leaf=_is_masked)


def _is_masked(slot: Any) -> bool:
    return isinstance(slot, optax.MaskedNode)


def _average(rule: Rule, weight: Any, slots: dict[str, Any], state: RuleState) -> Any:
    if not hasattr(rule, "averaged") or all(map(_is_masked, slots.values())):
        return weight
    dtype = jnp.promote_types(weight.dtype, jnp.float32)
    s = {name: slot.astype(dtype) for name, slot in slots.items() if not _is_masked(slot)}
    h = Course(rule, live=state.live).at(state.step, state.live)
    average, _ = rule.exchange("averaged", weight.astype(dtype), namespace({**s, **state.numbers}), namespace(h))
    return average.astype(weight.dtype)
