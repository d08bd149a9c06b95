"""How numbers are loaded and stored in Triton source: by their codec, which is part of the rule's own loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from stepwell.codecs import Blocks, Codec
from stepwell.engines.fused.arrays import arrays_of, draws, factor, in_blocks, numbers_of
from stepwell.engines.fused.codec_words import WORDS
from stepwell.engines.fused.program import Phase, Program
from stepwell.engines.fused.triton_words import BLOCK, array

# How an array of each dtype stands in memory.
POINTERS = {
    torch.float64: "tl.float64",
    torch.float32: "tl.float32",
    torch.bfloat16: "tl.uint16",
    torch.float16: "tl.uint16",
    torch.int16: "tl.uint16",
    torch.int8: "tl.uint8",
    torch.uint8: "tl.uint8",
}
_WIDTH = Blocks.block


def read(codec: Codec, parts: list[str], compute: str) -> str:
    """What has been loaded from the parts of a number, in the dtype that is computed with."""
    text = WORDS[codec.word].read.format(*parts)
    return f"{text}.to(tl.float64)" if compute == "float64" and codec.word != "float64" else text


def written(codec: Codec, text: str, compute: str, random: str = "") -> list[str]:
    """A number as it is stored in each part."""
    narrow = compute == "float64" and codec.word != "float64"
    x = f"({text}).to(tl.float32)" if narrow else text
    return [part.format(x=x, random=random) for part in WORDS[codec.word].write]


class Storing:
    """The loads and stores of a phase, element by element or block by block."""

    def __init__(self, program: Program, phase: Phase, codecs: Mapping[str, Codec], compute: str) -> None:
        self._phase, self._codecs, self._compute = phase, codecs, compute
        self.arrays = [
            (place, array(each.name), each.dtype, codecs[name])
            for name in numbers_of(phase)
            for place, each in arrays_of(name, program, codecs)
        ]
        self.draws = draws(phase, codecs)
        self.has_blocks = bool(in_blocks(numbers_of(phase), codecs))

    @property
    def arguments(self) -> list[str]:
        """What the rule's maths on some elements is given for them."""
        return [
            *(name for _, name, _, _ in self.arrays),
            *(["low", "high", "origin"] if self.draws else []),
            *(["block", "there"] if self.has_blocks else []),
        ]

    def pointers(self, table: Callable[[int], str], *, in_tiles: bool) -> list[str]:
        """Where the arrays begin; where there are no tiles, at element `start`."""
        lines = []
        for place, name, dtype, codec in self.arrays:
            start = "" if in_tiles else f" + {_position(codec, name, 'start')}"
            pointer = f"tl.multiple_of({table(place)}.to(tl.pointer_type({POINTERS[dtype]})), ALIGN)"
            lines.append(f"{name} = {pointer}{start}")
        return lines

    def blocks_in_a_run(self, at: str, end: str) -> list[str]:
        """In which blocks the elements from `at` on lie, and whether each begins before `end`."""
        if not self.has_blocks:
            return []
        return [f"block = {at} // {_WIDTH} + tl.arange(0, {BLOCK // _WIDTH})", f"there = block * {_WIDTH} < {end}"]

    def blocks_in_a_tile(self) -> list[str]:
        """The same of a tile, whose rows are whole blocks, or the one row of a tensor."""
        if not self.has_blocks:
            return []
        return [
            f"top = lane + tl.arange(0, ROWS * COLUMNS // {_WIDTH}) * ({_WIDTH} // COLUMNS)",
            f"block = ((line + top) * columns + at) // {_WIDTH}",
            "there = top < lines",
        ]

    def loads(self) -> list[str]:
        """Each number that is loaded, of the elements at `i`."""
        lines = []
        for name in self._phase.loads:
            codec, parts = self._codecs[name], self._parts(name)
            if isinstance(codec, Blocks):
                text = (
                    f"decode_{codec.bits}bit({', '.join(parts)}, i, inside, block, there, "
                    f"{_codes_of(codec)}, {int(codec.positive)}, {1 / codec.span!r})"
                )
                text = f"{text}.to(tl.float64)" if self._compute == "float64" else text
            else:
                text = read(codec, [f"tl.load({part} + i, inside, 0)" for part in parts], self._compute)
            lines.append(f"{array(name)}_ = {text}")
        return lines

    def stores(self, value: Callable[[str], str]) -> list[str]:
        """Each number that is stored, at `i`."""
        hashed = ["place = origin + i.to(tl.uint32)", "hashed = hash_of(low, high, place)"]
        lines = hashed if self.draws else []
        for name, _ in self._phase.stores:
            codec, parts = self._codecs[name], self._parts(name)
            drawn = f"random_bits(hashed, {factor(name, self._codecs)}, place)"
            if isinstance(codec, Blocks):
                x = f"({value(name)}).to(tl.float32)"
                cut = codec.shift
                nearest = f"tl.full(i.shape, {1 << cut - 1}, tl.uint32)"
                random = f"({drawn} << {cut - 16}) + {codec.below}" if codec.draws else nearest
                elements = "i, inside" if codec.bits == 8 else "inside"
                lines.append(
                    f"encode_{codec.bits}bit({x}, {', '.join(parts)}, {elements}, block, there, {random}, "
                    f"{_codes_of(codec)}, {int(codec.positive)}, {codec.spread!r})"
                )
            else:
                random = drawn if codec.draws else ""
                texts = written(codec, value(name), self._compute, random)
                lines += [f"tl.store({part} + i, {text}, inside)" for part, text in zip(parts, texts, strict=True)]
        return lines

    def _parts(self, name: str) -> list[str]:
        return [array(part) for part in self._codecs[name].names(name)]


def _position(codec: Codec, name: str, element: str) -> str:
    """Where in a part the element stands. Chunks begin where blocks do."""
    if codec.block == 1:
        return element
    return f"{element} // {codec.block}" if name.endswith("_scale") else f"{element} * {_bits(codec)} // 8"


def _bits(codec: Codec) -> int:
    return codec.bits if isinstance(codec, Blocks) else 8


def _codes_of(codec: Blocks) -> str:
    """What a codec says of its codes."""
    return f"{codec.first}, {codec.shift}, {codec.codes}, {codec.epsilon!r}"
