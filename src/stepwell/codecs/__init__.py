"""How numbers are kept in memory: optimizer state in 16, 8 or 4 bits, weights in 16 that lose no small update."""

from stepwell.codecs.blocks import BLOCK, Blocks
from stepwell.codecs.choosing import MasterKind, StateDtype, Storage, codecs_for, layout
from stepwell.codecs.codec import WEIGHTS, Codec, Plain, Stored
from stepwell.codecs.converting import empty_parts, parts_of, put, settle
from stepwell.codecs.rounding import Compensated, Kahan, Master, Stochastic

__all__ = [
    "BLOCK",
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
    "codecs_for",
    "empty_parts",
    "layout",
    "parts_of",
    "put",
    "settle",
]
