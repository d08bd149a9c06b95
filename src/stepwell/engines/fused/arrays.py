"""The arrays of a kernel: each number of a program, in the parts that its codec stores it in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from stepwell.codecs import Codec, drawn
from stepwell.codecs.noise import factor_of
from stepwell.engines.fused.program import Phase, Program


@dataclass(frozen=True)
class Array:
    """One of the arrays that a kernel gets the addresses of: a number of the program, or a part of one."""

    name: str
    number: str
    dtype: torch.dtype


def arrays(program: Program, codecs: Mapping[str, Codec]) -> list[Array]:
    """The arrays of a kernel, in the order of its table."""
    found = []
    for number in program.arrays:
        codec = codecs[number]
        dtypes = [dtype for _, dtype in codec.layout(())]
        found += [Array(name, number, dtype) for name, dtype in zip(codec.names(number), dtypes, strict=True)]
    return found


def table_width(program: Program, codecs: Mapping[str, Codec]) -> int:
    """How many numbers Triton's table has of a tensor: the row of its scalars, the addresses, the place of its first
    element among those that random bits are counted by, and their key."""
    return 3 + len(arrays(program, codecs))


def arrays_of(number: str, program: Program, codecs: Mapping[str, Codec]) -> list[tuple[int, Array]]:
    """Those that hold one number, with their places in the table."""
    return [(place, each) for place, each in enumerate(arrays(program, codecs)) if each.number == number]


def computed_in(codecs: Mapping[str, Codec]) -> str:
    """The dtype of the arithmetic on numbers that are stored so."""
    return "float64" if any(codec.word == "float64" for codec in codecs.values()) else "float32"


def draws(phase: Phase, codecs: Mapping[str, Codec]) -> bool:
    """Whether what the phase stores is rounded by chance."""
    return any(codecs[name].draws for name, _ in phase.stores)


def factor(number: str, codecs: Mapping[str, Codec]) -> str:
    """What a hash is multiplied with for this number's random bits; 1 where it is rounded to the nearest."""
    return f"{factor_of(drawn(number, codecs)) if codecs[number].draws else 1:#x}"


def in_blocks(names: Iterable[str], codecs: Mapping[str, Codec]) -> list[str]:
    """Those of the numbers that are stored in blocks."""
    return [name for name in names if codecs[name].block > 1]


def code_bits(codec: Codec) -> int:
    """How many bits the code of a number in a block has."""
    (codes, dtype), _ = codec.layout((codec.block,))
    return 8 * dtype.itemsize * torch.Size(codes).numel() // codec.block


def numbers_of(phase: Phase) -> list[str]:
    """The numbers that the phase loads or stores for each element."""
    return [*phase.loads, *(name for name, _ in phase.stores if name not in phase.loads)]
