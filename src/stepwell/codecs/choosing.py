"""Which codec each number of a parameter has: what `state_dtype` and `master` mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch

from stepwell.codecs.blocks import Blocks
from stepwell.codecs.codec import WEIGHTS, Codec, Plain, Stored
from stepwell.codecs.rounding import Compensated, Kahan, Master, Stochastic
from stepwell.rules.rule import Rule, Shape, Slot

StateDtype = Literal["float32", "bfloat16", "8bit", "4bit"]
MasterKind = Literal["stochastic", "kahan", "compensated", "compensated8", "float32"]

# Parameters with fewer elements keep their state in 32 bits where it would be in 8 or 4: there is little to save, and
# norms and biases are what training is most sensitive to (Dettmers et al. 2022, arXiv:2110.02861, sec. 2.1).
FEWEST_IN_BLOCKS = 4096
_BITS = {"8bit": 8, "4bit": 4}
_OF_WEIGHTS: Mapping[str, Codec] = {
    "stochastic": Stochastic(),
    "kahan": Kahan(),
    "compensated": Compensated(),
    "compensated8": Compensated(8),
    "float32": Master(torch.bfloat16),
}


# What the keywords of a storage may say.
CHOICES: Mapping[str, Any] = {"state_dtype": StateDtype | None, "master": MasterKind | None}


class Storage(NamedTuple):
    """How a parameter group is stored; None as its parameters are."""

    state_dtype: StateDtype | None = None
    master: MasterKind | None = None

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Storage:
        """What a group asks for."""
        return cls(group.get("state_dtype"), group.get("master"))


AS_IT_IS = Storage()
"""As the parameters are."""


def layout(
    rule: Rule,
    shape: Shape,
    dtype: torch.dtype,
    state_dtype: StateDtype | None = None,
    master: MasterKind | None = None,
) -> list[Stored]:
    """The tensors that an optimizer's state holds for one parameter, beside the parameter itself.

    Args:
        rule: the rule, as its group has it.
        shape: the parameter's shape.
        dtype: the parameter's dtype.
        state_dtype: as `stepwell.Optimizer` takes it.
        master: as `stepwell.Optimizer` takes it.

    Raises:
        ValueError: where a parameter of this dtype cannot be stored so, with what it takes.
    """
    fitted = rule.fit(shape)
    codecs = codecs_for(fitted, shape, dtype, Storage(state_dtype, master))
    found = list(codecs[WEIGHTS].stored(WEIGHTS, shape)[1:])
    for slot in fitted.slot_list():
        if not slot.scalar:
            found += codecs[slot.name].stored(slot.name, fitted.slot_shape(slot, shape))
    return found


def codecs_for(rule: Rule, shape: Shape, dtype: torch.dtype, storage: Storage) -> dict[str, Codec]:
    """The codec of the weights and of each slot that is a tensor; `rule` is fitted to the shape.

    Raises ValueError where a parameter of this dtype cannot be stored so.
    """
    found = {WEIGHTS: _of_weights(dtype, storage)}
    found |= {slot.name: _of_slot(slot, shape, dtype, storage) for slot in rule.slot_list() if not slot.scalar}
    return found


def in_blocks(state_dtype: StateDtype | None) -> bool:
    """Whether state is stored in blocks, with fewer than 16 bits a number."""
    return state_dtype in _BITS


def check_storage(rule: Rule, shapes: Iterable[Shape], storage: Storage, where: str = "") -> None:
    """Raise ValueError where 8 or 4 bits are asked for and the rule has no state that could be stored in them."""
    if in_blocks(storage.state_dtype) and not has_blocks(rule, shapes):
        raise ValueError(
            f"{type(rule).__name__} keeps no state that state_dtype={storage.state_dtype!r} could store; "
            f"it takes None, 'float32' or 'bfloat16'{where}"
        )


def has_blocks(rule: Rule, shapes: Iterable[Shape] = ()) -> bool:
    """Whether the rule, fitted to any of these shapes, has state that could be stored in 8 or 4 bits."""
    fitted = {type(found): found for found in (rule, *map(rule.fit, shapes))}.values()
    return any(_fits_in_blocks(slot) for each in fitted for slot in each.slot_list())


def _fits_in_blocks(slot: Slot) -> bool:
    return not (slot.scalar or slot.wide or slot.fine or slot.shape is not None)


def _of_weights(dtype: torch.dtype, storage: Storage) -> Codec:
    if dtype.is_complex and storage != Storage():
        raise ValueError(f"{_named(dtype)} parameters take state_dtype=None and master=None, got {_asked(storage)}")
    if dtype == torch.float16 and storage.master is not None:
        if storage.master != "float32":
            raise ValueError(f"float16 weights take master='float32' or None, got {storage.master!r}")
        return Master(dtype)
    # Wider weights need no other: they are their own master.
    return Plain(dtype) if storage.master is None or dtype != torch.bfloat16 else _OF_WEIGHTS[storage.master]


def _of_slot(slot: Slot, shape: Shape, dtype: torch.dtype, storage: Storage) -> Codec:
    wide = Plain(torch.promote_types(dtype, torch.float32))
    kind = storage.state_dtype
    if slot.wide:
        return wide
    if slot.fine and slot.shape is None:
        return _of_fine(dtype, storage)
    if kind is None:
        return Plain(dtype)
    if slot.shape is not None:
        return wide
    if kind == "float32":
        return Plain(torch.float32)
    if kind == "bfloat16":
        return Stochastic()
    if torch.Size(shape).numel() < FEWEST_IN_BLOCKS:
        return Plain(torch.float32)
    return Blocks(_BITS[kind], slot.positive)


def _of_fine(dtype: torch.dtype, storage: Storage) -> Codec:
    """What stands for weights is kept as they are, or wider: the two may change places."""
    if dtype.itemsize >= 4 or storage == Storage():
        return Plain(dtype)
    if storage.master == "kahan":
        return Kahan()
    if storage.state_dtype == "float32" or storage.master in ("compensated", "compensated8", "float32"):
        return Plain(torch.float32)
    return Stochastic() if dtype == torch.bfloat16 else Plain(dtype)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _asked(storage: Storage) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in storage._asdict().items() if value is not None)
