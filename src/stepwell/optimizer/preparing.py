"""The state of a parameter: what a rule's slots begin with, and how they are stored and laid out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from stepwell.codecs import WEIGHTS, Codec, Storage, empty_parts, parts_of, put, settle_storage
from stepwell.engines.batch import State
from stepwell.engines.dense import is_dense
from stepwell.layout import Layout, held, layout_of, local, make_state_whole, settle_parts
from stepwell.rules.rule import Rule

_LOG = logging.getLogger("stepwell")


def prepare(rule: Rule, parameter: Tensor, state: State, other: State, storage: Storage) -> dict[str, Codec]:
    """Fill in what the state lacks (what is shared from another parameter's), and store and lay out the rest as the
    parameter's group asks.

    Returns how weights and slots are stored, by number.
    """
    state.setdefault("step", 0)
    _follow(rule, parameter, state)
    make_state_whole(state)
    shape = tuple(parameter.shape)
    codecs = settle_storage(rule, parameter, state, storage)
    for slot in rule.slot_list():
        if slot.scalar:
            state.setdefault(slot.name, other.get(slot.name, 0.0) if slot.shared else 0.0)
            continue
        codec, slot_shape = codecs[slot.name], rule.slot_shape(slot, shape)
        if state.get(slot.name) is None:
            made = empty_parts(slot.name, codec, slot_shape, parameter)
            if slot.start == "weights":
                codec.store(_weights(parameter, state, codecs), made)
            elif slot.start == "normal":
                wide = torch.promote_types(parameter.dtype, torch.float32)
                codec.store(slot.normal_numbers(parameter.new_empty(slot_shape, dtype=wide)), made)
            put(slot.name, codec, made, state)
    _lay_out(parameter, parameter.shape, state, codecs)
    return codecs


def _lay_out(weight: Tensor, shape: torch.Size, state: State, codecs: Mapping[str, Codec]) -> None:
    """Bring what has a number for each element into memory as the weight, or this rank's part of it, is: kernels pair
    elements by their place in memory. `shape` is that of the whole."""
    if not is_dense(weight):
        return
    for number, codec in codecs.items():
        for name in codec.names(number):
            if codec.block == 1 and name in state and state[name].shape == shape:
                cut, part = layout_of(state[name]), local(state[name])
                moved = laid_out_as(weight, part)
                if moved is not part:
                    state[name] = moved if cut is None else cut.tensor(moved)


def _follow(rule: Rule, parameter: Tensor, state: State) -> None:
    """Move the state to the device that the parameter was moved to."""
    numbers = {"step", *(slot.name for slot in rule.slot_list() if slot.scalar)}
    for name, value in state.items():
        if name not in numbers and isinstance(value, Tensor) and value.device != parameter.device:
            _say_moved(str(value.device), str(parameter.device))
            state[name] = value.to(parameter.device)


@functools.cache
def _say_moved(before: str, now: str) -> None:
    """Once for two devices."""
    _LOG.warning("state on %s was moved to %s, where its parameters are now", before, now)


def _weights(parameter: Tensor, state: State, codecs: Mapping[str, Codec]) -> Tensor:
    """The parameter's weights, in the precision that they are stored in."""
    return codecs[WEIGHTS].load(parts_of(WEIGHTS, codecs[WEIGHTS], state, parameter), tuple(parameter.shape))


def prepare_part(
    rule: Rule, parameter: Tensor, state: State, other: State, storage: Storage, layout: Layout
) -> dict[str, Codec]:
    """The same for a parameter that lies on many ranks: slots are cut as it is, and each rank stores its part."""
    state.setdefault("step", 0)
    for slot in rule.slot_list():
        if slot.scalar:
            state.setdefault(slot.name, other.get(slot.name, 0.0) if slot.shared else 0.0)
    codecs = settle_parts(rule, parameter, state, storage, layout)
    _lay_out(held(parameter.detach(), layout), parameter.shape, state, codecs)
    return codecs


def laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, or a slot, in memory as the weight is."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
