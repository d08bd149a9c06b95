"""From one storage to another: state that was made, or saved, under another choice than its group's."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.codecs.blocks import Blocks
from stepwell.codecs.choosing import Storage, codecs_for
from stepwell.codecs.codec import WEIGHTS, Codec, Plain
from stepwell.codecs.rounding import Compensated, Kahan, Master
from stepwell.rules.rule import Rule, Shape, Slot

_LOG = logging.getLogger("stepwell")
_BESIDE_WEIGHTS = (Kahan(), Compensated(), Compensated(8), Master(torch.bfloat16), Master(torch.float16))


def settle_storage(rule: Rule, parameter: Tensor, state: dict[str, Any], storage: Storage) -> dict[str, Codec]:
    """Bring what the state holds into the codecs that the group asks for, and return these, by number.

    Where the group leaves the state's dtype open, floating-point slots stay in the dtype that they are found in. Raises
    ValueError for a slot that does not go with the parameter's shape.
    """
    shape = tuple(parameter.shape)
    codecs = codecs_for(rule, shape, parameter.dtype, storage)
    for slot in rule.slot_list():
        if slot.scalar or state.get(slot.name) is None:
            continue
        held = rule.slot_shape(slot, shape)
        if codecs[slot.name].is_in(slot.name, state, held):
            continue
        try:
            have = slot_codec(slot, state, held)
        except ValueError as error:
            raise slot_misfit(rule, slot, shape, error) from None
        if storage.state_dtype is None and isinstance(have, Plain):
            codecs[slot.name] = have
        else:
            convert(slot.name, have, codecs[slot.name], state, held, parameter)
    narrow_remainder(state)
    have = weights_codec(parameter.dtype, state, shape)
    if have.stored(WEIGHTS, shape) != codecs[WEIGHTS].stored(WEIGHTS, shape):
        convert(WEIGHTS, have, codecs[WEIGHTS], state, shape, parameter)
    for name in names_beside(WEIGHTS):  # of weights in another dtype
        if name in state and name not in codecs[WEIGHTS].names(WEIGHTS):
            del state[name]
            say_converted(name, codecs[WEIGHTS].word, "weights")
    return codecs


def slot_misfit(rule: Rule, slot: Slot, shape: Shape, error: ValueError) -> ValueError:
    """The error of a slot that does not go with the parameter's shape, from what `slot_codec` says of it."""
    needed = "" if slot.shape is None else f", for which {type(rule).__name__} needs {rule.slot_shape(slot, shape)}"
    return ValueError(
        f"the slot {slot.name!r} {error}, and its parameter has shape {shape} now{needed}: let "
        "optimizer.state[parameter] follow, or clear it"
    )


def names_beside(number: str) -> tuple[str, ...]:
    """What the parts of a number but the first may be called in a state."""
    codecs = _BESIDE_WEIGHTS if number == WEIGHTS else (Blocks(8, False), Kahan())
    return tuple(dict.fromkeys(name for codec in codecs for name in codec.names(number)[1:]))


def slot_codec(slot: Slot, state: Mapping[str, Any], shape: Shape) -> Codec:
    """How the state holds a slot of this shape now. Raises ValueError where it holds it in no way that is known."""
    if (codec := _in_parts(slot, state, shape)) is not None:
        return codec
    tensor = state[slot.name]
    plain = (
        state.keys().isdisjoint(names_beside(slot.name)) and isinstance(tensor, Tensor) and tuple(tensor.shape) == shape
    )
    if not plain or not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(_unknown(slot, state, shape))
    return Plain(tensor.dtype)


def _in_parts(slot: Slot, state: Mapping[str, Any], shape: Shape) -> Codec | None:
    """How the state holds a slot that is not one tensor of plain numbers; None where it is, or in no way known."""
    codecs: tuple[Codec, ...] = (Blocks(8, slot.positive), Blocks(4, slot.positive), Kahan())
    return next((codec for codec in codecs if codec.is_in(slot.name, state, shape)), None)


def joined(rule: Rule, state: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """What a state holds, with one tensor of float32 for each slot that it holds in parts, as in blocks of 8 bits.

    Args:
        rule: fitted to the parameter.
        state: the parameter's; it is left as it is.
        shape: the parameter's.
    """
    found = dict(state)
    for slot in rule.slot_list():
        if slot.scalar or not isinstance(state.get(slot.name), Tensor):
            continue
        held = rule.slot_shape(slot, shape)
        if (codec := _in_parts(slot, state, held)) is not None:
            for name in codec.names(slot.name):
                del found[name]
            found[slot.name] = codec.load([state[name] for name in codec.names(slot.name)], held).float()
    return found


def narrow_remainder(state: dict[str, Any]) -> None:
    """Bring a remainder of weights into its own 16 bits, from the 32 in which ranks send it to each other."""
    (name,) = Compensated().names(WEIGHTS)[1:]
    if isinstance(remainder := state.get(name), Tensor) and remainder.dtype == torch.int32:
        state[name] = remainder.to(torch.int16)


def weights_codec(dtype: torch.dtype, state: Mapping[str, Any], shape: Shape) -> Codec:
    """How weights of this dtype are held together with what their state keeps beside them."""
    found = (codec for codec in _BESIDE_WEIGHTS if codec.layout(shape)[0] == (shape, dtype))
    return next((codec for codec in found if codec.is_in(WEIGHTS, state, shape)), Plain(dtype))


def parts_of(number: str, codec: Codec, state: dict[str, Any], parameter: Tensor) -> list[Tensor]:
    """The tensors that hold a number."""
    return [parameter.detach() if name == WEIGHTS else state[name] for name in codec.names(number)]


def empty_parts(number: str, codec: Codec, shape: Shape, parameter: Tensor) -> list[Tensor]:
    """New tensors for a number, zeros; the first part of the weights is the parameter itself.

    What has a number for each of the parameter's lies in memory as the parameter does, unless its order counts.
    """
    made = []
    for part in codec.stored(number, shape):
        along = part.shape == tuple(parameter.shape) and codec.block == 1
        if part.name == WEIGHTS:
            made.append(parameter.detach())
        elif along:
            made.append(torch.zeros_like(parameter.detach(), dtype=part.dtype, memory_format=torch.preserve_format))
        else:
            made.append(parameter.detach().new_zeros(part.shape, dtype=part.dtype))
    return made


@torch.no_grad()
def convert(number: str, have: Codec, want: Codec, state: dict[str, Any], shape: Shape, parameter: Tensor) -> None:
    """Bring a number in the state from one codec into another, rounded to the nearest; said once for each pair."""
    loaded = have.load(parts_of(number, have, state, parameter), shape).clone()
    for name in have.names(number):
        state.pop(name, None)
    made = empty_parts(number, want, shape, parameter)
    want.store(loaded, made)
    put(number, want, made, state)
    if state.get("step"):
        say_converted(have.word, want.word, "weights" if number == WEIGHTS else "state")


def put(number: str, codec: Codec, parts: list[Tensor], state: dict[str, Any]) -> None:
    """Enter the parts of a number into the state."""
    state.update((name, part) for name, part in zip(codec.names(number), parts, strict=True) if name != WEIGHTS)


@functools.cache
def say_converted(have: str, want: str, what: str) -> None:
    """Log that weights, or state, change their storage; once for each change."""
    _LOG.warning("%s found as %s: kept as %s from here on, as its parameter group asks", what, have, want)


def _unknown(slot: Slot, state: Mapping[str, Any], shape: Shape) -> str:
    """Why what the state holds of a slot is none of the ways to hold it."""
    tensor, scale = state[slot.name], state.get(f"{slot.name}_scale")
    if not isinstance(tensor, Tensor):
        return f"has a {type(tensor).__name__}"
    if isinstance(scale, Tensor):
        return f"has shape {tuple(tensor.shape)} and dtype {tensor.dtype}, with scales of shape {tuple(scale.shape)}"
    if tuple(tensor.shape) != shape:
        return f"has shape {tuple(tensor.shape)}"
    return f"has dtype {tensor.dtype}"
