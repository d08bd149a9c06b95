"""How numbers are stored in parts: each rank stores what it holds, with the codec that the whole would have.

What has a number for each element lies as the parameter does, as tensors on many ranks. Blocks are counted along each
rank's part, so that no block has to be put together; they are plain tensors of this rank alone, and a state dict has
the numbers that they hold in float32, which any number of ranks can take over. Nor has it numbers of a dtype that ranks
cannot send each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.codecs import (
    WEIGHTS,
    Codec,
    Plain,
    Storage,
    codecs_for,
    names_beside,
    narrow_remainder,
    say_converted,
    slot_codec,
    slot_misfit,
    weights_codec,
)
from stepwell.layout.parts import Layout, held, layout_of, local, refuse_anothers_part, same_layout
from stepwell.layout.slots import slot_layout
from stepwell.rules.rule import Rule, Slot, switched


def settle_parts(
    rule: Rule, parameter: Tensor, state: dict[str, Any], storage: Storage, layout: Layout
) -> dict[str, Codec]:
    """Make what the state lacks of a parameter's tensors, and bring the rest into the codecs that its group asks for.

    Returns these, by number. Where the group leaves the state's dtype open, floating-point slots stay as they are
    found.
    """
    shape = tuple(parameter.shape)
    for name, value in state.items():
        if isinstance(value, Tensor):
            refuse_anothers_part(value, f"the slot {name!r}")
    codecs = codecs_for(rule, shape, parameter.dtype, storage)
    for slot in rule.slot_list():
        if slot.scalar:
            continue
        cut, want = slot_layout(rule, slot, layout), codecs[slot.name]
        if state.get(slot.name) is None:
            number = _start(slot, parameter, layout, cut)
            _put(slot.name, want, state, _made(want, slot, parameter, layout, cut, number), cut)
        elif not _is_in(slot.name, want, state, cut):
            try:
                have = _found(slot, state, cut)
            except ValueError as error:
                raise slot_misfit(rule, slot, shape, error) from None
            if isinstance(have, Plain) and (storage.state_dtype is None or have == want):
                codecs[slot.name] = have
                state[slot.name] = same_layout(state[slot.name], cut)
            else:
                number = _loaded(slot.name, have, state, cut)
                for name in have.names(slot.name):
                    del state[name]
                _put(slot.name, want, state, _made(want, slot, parameter, layout, cut, number), cut)
    _settle_weights(codecs[WEIGHTS], parameter, state, layout)
    return codecs


def _start(slot: Slot, parameter: Tensor, layout: Layout, cut: Layout) -> Tensor | None:
    """This rank's part of what stands in a slot before the first update; None for zeros."""
    if slot.start == "weights":
        return held(parameter, layout)
    if slot.start == "normal":
        wide = torch.promote_types(parameter.dtype, torch.float32)
        return cut.part(slot.normal_numbers(held(parameter, layout).new_empty(cut.shape, dtype=wide)))
    return None


def portable(rule: Rule, state: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """A parameter's state as a state dict has it: without blocks of this rank's own, and nothing in int16, which ranks
    cannot send each other."""
    found = dict(state)
    for slot, (owner, declared) in _in_blocks(rule, state, layout).items():
        cut = slot_layout(owner, declared, layout)
        have = _found(declared, state, cut)
        for name in have.names(slot)[1:]:
            del found[name]
        found[slot] = cut.tensor(_loaded(slot, have, state, cut))
    for name, value in found.items():
        if isinstance(value, Tensor) and value.dtype == torch.int16:
            found[name] = value.to(torch.int32)
    return found


def _in_blocks(rule: Rule, state: Mapping[str, Any], layout: Layout) -> dict[str, tuple[Rule, Slot]]:
    """The slots that the state has in blocks, also those that a flag's switch has left behind, each with its rule,
    fitted."""
    names = {name.removesuffix("_scale") for name in state if name.endswith("_scale")}
    rules = [rule.fit(layout.shape)]
    if not names.issubset(slot.name for slot in rules[0].slot_list()):
        rules = switched(rule, layout.shape)
    known = {slot.name: (one, slot) for one in reversed(rules) for slot in one.slot_list()}
    return {name: known[name] for name in sorted(names & known.keys())}


def make_state_whole(state: dict[str, Any]) -> None:
    """Bring what the state of a whole parameter has in parts, as it was loaded, together on every rank. All ranks of
    the mesh take part."""
    for name, value in state.items():
        if isinstance(value, Tensor) and layout_of(value) is not None:
            refuse_anothers_part(value, f"the slot {name!r}")
            state[name] = same_layout(value, None)


def _is_in(number: str, codec: Codec, state: Mapping[str, Any], cut: Layout) -> bool:
    """Whether the state holds this rank's part of a number by this codec."""
    if codec.block > 1:
        return codec.is_in(number, state, cut.part_shape()) and layout_of(state[number]) is None
    return codec.is_in(number, state, cut.shape) and all(
        layout_of(state[name]) == cut for name in codec.names(number) if name != WEIGHTS
    )


def _found(slot: Slot, state: Mapping[str, Any], cut: Layout) -> Codec:
    """How the state holds a slot now: this rank's part in blocks, or the whole in any way."""
    tensor = state[slot.name]
    in_blocks = layout_of(tensor) is None and f"{slot.name}_scale" in state
    try:
        return slot_codec(slot, state, cut.part_shape() if in_blocks else cut.shape)
    except ValueError:
        return slot_codec(slot, state, cut.shape)


def _loaded(number: str, codec: Codec, state: Mapping[str, Any], cut: Layout) -> Tensor:
    """This rank's part of a number, from how the state holds it."""
    tensors = [state[name] for name in codec.names(number)]
    if codec.block == 1:
        return codec.load([local(same_layout(tensor, cut)) for tensor in tensors], cut.part_shape()).clone()
    if codec.is_in(number, state, cut.part_shape()):
        return codec.load(tensors, cut.part_shape())
    return cut.part(codec.load(tensors, cut.shape)).clone()


def _made(
    codec: Codec, slot: Slot, parameter: Tensor, layout: Layout, cut: Layout, number: Tensor | None
) -> list[Tensor]:
    """New tensors of this rank's part of a slot: of this number, rounded to the nearest, or of zeros."""
    part = held(parameter.detach(), layout)
    shape = cut.part_shape()
    made = []
    for each in codec.stored(slot.name, shape):
        if each.shape == tuple(part.shape) and codec.block == 1:
            made.append(torch.zeros_like(part, dtype=each.dtype, memory_format=torch.preserve_format))
        else:
            made.append(part.new_zeros(each.shape, dtype=each.dtype))
    if number is not None:
        codec.store(number, made)
    return made


def _put(number: str, codec: Codec, state: dict[str, Any], parts: Sequence[Tensor], cut: Layout) -> None:
    """Enter the parts of a number into the state."""
    for name, part in zip(codec.names(number), parts, strict=True):
        state[name] = part if codec.block > 1 else cut.tensor(part)


def _settle_weights(want: Codec, parameter: Tensor, state: dict[str, Any], layout: Layout) -> None:
    """Bring what is kept beside the weights into the parameter's layout, and what is kept otherwise than its group asks
    into that codec."""
    narrow_remainder(state)
    have = weights_codec(parameter.dtype, state, layout.shape)
    for name in have.names(WEIGHTS)[1:]:  # as it was loaded: cut otherwise, or not at all
        state[name] = same_layout(state[name], layout)
    part = held(parameter.detach(), layout)
    shape = tuple(part.shape)
    if have.stored(WEIGHTS, shape) != want.stored(WEIGHTS, shape):
        number = have.load([part, *(local(state.pop(name)) for name in have.names(WEIGHTS)[1:])], shape).clone()
        parts = [
            part if each.name == WEIGHTS else torch.zeros_like(part, dtype=each.dtype)
            for each in want.stored(WEIGHTS, shape)
        ]
        want.store(number, parts)
        for name, each in list(zip(want.names(WEIGHTS), parts, strict=True))[1:]:
            state[name] = layout.tensor(each)
        if state.get("step"):
            say_converted(have.word, want.word, "weights")
    for name in names_beside(WEIGHTS):  # of weights in another dtype
        if name in state and name not in want.names(WEIGHTS):
            del state[name]
            say_converted(name, want.word, "weights")
