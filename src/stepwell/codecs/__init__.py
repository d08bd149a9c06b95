"""How numbers are kept in memory: optimizer state in 16, 8 or 4 bits, weights in 16 that lose no small update."""

from stepwell.codecs.blocks import BLOCK, Blocks
from stepwell.codecs.choosing import (
    AS_IT_IS,
    CHOICES,
    FEWEST_IN_BLOCKS,
    MasterKind,
    StateDtype,
    Storage,
    check_storage,
    codecs_for,
    has_blocks,
    in_blocks,
    layout,
)
from stepwell.codecs.codec import WEIGHTS, Codec, Plain, Stored, drawn
from stepwell.codecs.converting import (
    empty_parts,
    joined,
    names_beside,
    parts_of,
    put,
    settle_storage,
    slot_codec,
    slot_misfit,
)
from stepwell.codecs.rounding import Compensated, Kahan, Master, Stochastic

__all__ = [
    "AS_IT_IS",
    "BLOCK",
    "CHOICES",
    "FEWEST_IN_BLOCKS",
    "WEIGHTS",
    "Blocks",
    "Codec",
    "Compensated",
    "Kahan",
    "Master",
    "MasterKind",
    "Plain",
    "StateDtype",
    "Stochastic",
    "Storage",
    "Stored",
    "check_storage",
    "codecs_for",
    "drawn",
    "empty_parts",
    "has_blocks",
    "in_blocks",
    "joined",
    "layout",
    "names_beside",
    "parts_of",
    "put",
    "settle_storage",
    "slot_codec",
    "slot_misfit",
]
