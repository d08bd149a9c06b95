"""From parameter groups to batches: which parameters one launch can take together.

The answer changes only when a parameter gets or loses its gradient, a flag changes, or a tensor is replaced; so it is
kept, and each step only looks whether it still holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from stepwell.engines.batch import Batch, Engine, Group, State
from stepwell.engines.choice import engine_for
from stepwell.engines.dense import is_dense
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, flags

_gradient_of = attrgetter("grad")
_dtype_of = attrgetter("dtype")
_is_contiguous = Tensor.is_contiguous
_size_of = Tensor.numel
_strides_of = Tensor.stride


class Bucket:
    """A batch, the engine that runs it, and the parameters whose gradients it takes at each step."""

    def __init__(self, engine: Engine, batch: Batch, parameters: list[Tensor]) -> None:
        self.engine = engine
        self.batch = batch
        self.parameters = parameters
        self._complex = parameters[0].is_complex()
        self._contiguous = all(map(_is_contiguous, parameters))
        self._looks = self._look()
        self._slots = [(slot, list(map(id, self._slot(slot)))) for slot in batch.tensor_slots]

    def still_holds(self) -> bool:
        """Whether weights and slots are the tensors that the batch was made of, in the same sizes and layout."""
        return self._look() == self._looks and all(list(map(id, self._slot(slot))) == ids for slot, ids in self._slots)

    def _look(self) -> tuple[Any, ...]:
        """What may change in a parameter that stays the same object, as by `module.to(…)`."""
        contiguous = all(map(_is_contiguous, self.parameters))
        strides = None if contiguous else list(map(_strides_of, self.parameters))
        return list(map(_size_of, self.parameters)), set(map(_dtype_of, self.parameters)), strides

    def _slot(self, slot: str) -> list[Any]:
        return [state.get(slot) for state in self.batch.states]

    def take_gradients(self) -> None:
        """Put the parameters' gradients into the batch, laid out as their weights are."""
        gradients = list(map(_gradient_of, self.parameters))
        if self._complex:
            gradients = list(map(real, gradients))
            self.batch.weights = list(map(real, self.parameters))
            self.batch.columns = {slot: list(map(real, self._slot(slot))) for slot in self.batch.tensor_slots}
        if self.engine.name == "fused":
            weights = self.batch.weights
            if not (self._contiguous and all(map(_is_contiguous, gradients))):
                gradients = [_laid_out_as(w, g) for w, g in zip(weights, gradients, strict=True)]
            if set(map(_dtype_of, gradients)) != {weights[0].dtype}:
                gradients = [g.to(weights[0].dtype) for g in gradients]
        self.batch.gradients = gradients


def _laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


class Buckets:
    """The buckets of one optimizer."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._made_for: Any = None
        self._buckets: list[Bucket] = []

    def forget(self) -> None:
        """Make the buckets anew at the next step."""
        self._made_for = None

    def collect(self, groups: list[dict[str, Any]], state: Mapping[Tensor, State]) -> list[Bucket]:
        """The buckets of the parameters that have a gradient."""
        members = [[p for p in group["params"] if p.grad is not None] for group in groups]
        kinds = [(id(group), group["rule"], flags(rule_class(group["rule"]), group)) for group in groups]
        ids = [list(map(id, parameters)) for parameters in members]
        if self._made_for != (id(state), len(state), ids, kinds) or not all(b.still_holds() for b in self._buckets):
            self._buckets = self._make(groups, members, state)
            self._made_for = (id(state), len(state), ids, kinds)
        return self._buckets

    def with_state(self, groups: list[dict[str, Any]], state: Mapping[Tensor, State]) -> list[Bucket]:
        """The buckets of the parameters that have been updated, made for one use."""
        return self._make(groups, [[p for p in group["params"] if state.get(p)] for group in groups], state)

    def _make(
        self, groups: list[dict[str, Any]], members: list[list[Tensor]], state: Mapping[Tensor, State]
    ) -> list[Bucket]:
        found: defaultdict[Any, list[tuple[Tensor, State, Group, Rule, Engine]]] = defaultdict(list)
        for group, parameters in zip(groups, members, strict=True):
            kind = rule_class(group["rule"])
            rule = kind(**{name: group[name] for name in kind.field_names()})
            for parameter in parameters:
                slots = state[parameter]
                prepare(rule, parameter, slots)
                engine = engine_for(self._engine, rule, real(parameter))
                dtypes = tuple(slots[slot.name].dtype for slot in rule.slot_list() if not slot.scalar)
                key = (engine.name, kind, flags(kind, group), parameter.dtype, parameter.device, dtypes)
                found[key].append((parameter, slots, group, rule, engine))
        return [_bucket(entries) for entries in found.values()]


def _bucket(entries: list[tuple[Tensor, State, Group, Rule, Engine]]) -> Bucket:
    parameters, rule, engine = [entry[0] for entry in entries], entries[0][3], entries[0][4]
    weights = list(map(real, parameters)) if parameters[0].is_complex() else parameters
    batch = Batch(rule, weights, [entry[1] for entry in entries], [entry[2] for entry in entries])
    batch.columns = {slot: list(map(real, column)) for slot, column in batch.columns.items()}
    return Bucket(engine, batch, parameters)


def prepare(rule: Rule, parameter: Tensor, state: State) -> None:
    """Fill in the slots that the state lacks, and lay the others out as the parameter is."""
    state.setdefault("step", 0)
    for slot in rule.slot_list():
        if slot.scalar:
            state.setdefault(slot.name, 0.0)
        elif state.get(slot.name) is None:
            start = parameter.detach()
            keep = torch.preserve_format
            state[slot.name] = (
                start.clone(memory_format=keep)
                if slot.start == "weights"
                else torch.zeros_like(start, memory_format=keep)
            )
        elif state[slot.name].stride() != parameter.stride() and is_dense(parameter):
            state[slot.name] = torch.empty_like(parameter, dtype=state[slot.name].dtype).copy_(state[slot.name])


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of reals."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor
