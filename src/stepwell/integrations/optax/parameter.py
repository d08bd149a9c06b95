"""One parameter in one update: what the rule sees of it, and what becomes of that."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import optax

from stepwell.integrations.views import View
from stepwell.rules.rule import Rule, Slot, namespace


def starting_slots(rule: Rule, views: list[View], weights: list[Any]) -> tuple[dict[str, list[Any]], list[str]]:
    """What stands in each slot of each parameter before the first update, and the names of the shared numbers.

    Raises TypeError or ValueError for a parameter that the rule does not take.
    """
    for weight in weights:
        if not jnp.issubdtype(weight.dtype, jnp.floating):
            raise TypeError(f"a rule takes parameters of real floating-point numbers, got {weight.dtype}")
    listed = [slot for owner in (rule, *(view.rule for view in views)) for slot in owner.slot_list()]
    slots = {slot.name: slot for slot in listed}
    kept = {
        name: [_start(slot, view, weight) for view, weight in zip(views, weights, strict=True)]
        for name, slot in slots.items()
        if not slot.scalar
    }
    return kept, [name for name, slot in slots.items() if slot.scalar]


def _start(slot: Slot, view: View, weight: Any) -> Any:
    if slot.name not in {own.name for own in view.rule.slot_list()}:
        return optax.MaskedNode()
    if slot.start == "weights":
        return jnp.array(weight)  # a copy, for the weights may be donated
    dtype = jnp.promote_types(weight.dtype, jnp.float32) if slot.wide else weight.dtype
    zeros = jnp.zeros(view.slot_shape(slot.name), dtype)
    return slot.normal_numbers(zeros) if slot.start == "normal" else zeros


class Parameter:
    """One parameter in one update.

    Args:
        view: how the rule sees it.
        weight: the parameter.
        gradient: its gradient, of the same shape.
        slots: what stands in each slot; `optax.MaskedNode()` where the rule keeps none for it.
    """

    def __init__(self, view: View, weight: Any, gradient: Any, slots: Mapping[str, Any]) -> None:
        self.view = view
        self.slots = dict(slots)
        self._weight = weight
        self._gradient = gradient
        self._own = [slot for slot in view.rule.slot_list() if not slot.scalar]
        present = [self.slots[slot.name] for slot in self._own]
        self._dtype = jnp.promote_types(jnp.result_type(weight, gradient, *present), jnp.float32)

    @cached_property
    def _seen(self) -> tuple[Any, Any, dict[str, Any]]:
        """p, g, and the slots by name, as the rule sees them."""
        g = self._into(self._gradient)
        own = {
            slot.name: self.slots[slot.name].astype(self._dtype) if slot.shape else self._into(self.slots[slot.name])
            for slot in self._own
        }
        return self._into(self._weight), -g if self.view.whole.maximize else g, own

    def _into(self, x: Any) -> Any:
        return self.view.into(x.astype(self._dtype), jnp)

    def _names(self, values: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[Any, Any]:
        """s and h."""
        h = {name: self._in_own_dtype(value) for name, value in self.view.hyper_parameters(values).items()}
        s = {name: self._in_own_dtype(value) for name, value in numbers.items()}
        return namespace({**s, **self._seen[2]}), namespace(h)

    def _in_own_dtype(self, value: Any) -> Any:
        """A number that has a dtype would give it to what it meets: the step, and scheduled and live values."""
        if isinstance(value, tuple):
            return tuple(self._in_own_dtype(one) for one in value)
        return value.astype(self._dtype) if hasattr(value, "astype") else value

    def measured(self, values: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The totals of what the rule measures before the update."""
        p, g, _ = self._seen
        return {name: jnp.sum(x) for name, x in self.view.rule.measure(p, g, *self._names(values, numbers)).items()}

    def update(self, values: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What to add to the parameter, and the new values of the numbers that it shares. Its slots are renewed."""
        if 0 in self._weight.shape:
            return jnp.zeros_like(self._weight), {}
        p, g, _ = self._seen
        new_weight, new = self.view.rule.update(p, g, *self._names(values, numbers))
        self.view.rule.check_slots(new)
        for slot in self._own:
            if slot.name in new:
                value = new[slot.name] if slot.shape else self.view.back(new[slot.name], jnp)
                kept = self.slots[slot.name]
                self.slots[slot.name] = jnp.broadcast_to(value, kept.shape).astype(kept.dtype)
        update = self.view.back(new_weight, jnp) - self._weight.astype(self._dtype)
        dtype = jnp.result_type(self._weight, self._gradient)
        return update.astype(dtype), {name: value for name, value in new.items() if name not in self.slots}
