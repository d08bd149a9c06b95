"""How each codec is written in a kernel, whatever the language: by functions of the same names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """How a codec is written: what its parts, {0}, {1}, are read as, and what is written into each for the number {x},
    with the 16 random bits {random}."""

    read: str
    write: tuple[str, ...]


def _in_24_bits(random: str) -> Words:
    rounded = f"to_24_bits({{x}}, {random})"
    return Words("from_halves({0}, wide_remainder({1}))", (f"upper_half({rounded})", f"third_byte({rounded})"))


PLAIN = Words("{0}", ("{x}",))
WORDS = {
    "float64": PLAIN,
    "float32": PLAIN,
    "bfloat16": Words("from_bfloat16({0})", ("to_bfloat16({x})",)),
    "float16": Words("from_float16({0})", ("to_float16({x})",)),
    "stochastic bfloat16": Words("from_bfloat16({0})", ("to_bfloat16_by_chance({x}, {random})",)),
    "bfloat16 with compensation": Words("from_kahan({0}, {1})", ("to_bfloat16({x})", "kahan_error({x})")),
    "bfloat16 with remainder": Words("from_halves({0}, {1})", ("upper_half({x})", "lower_half({x})")),
    "bfloat16 with 8-bit remainder": _in_24_bits("{random}"),
    "bfloat16 with 8-bit remainder, rounded to the nearest": _in_24_bits("0x8000"),
    "bfloat16 with master": Words("from_bfloat16_with_master({0}, {1})", ("to_bfloat16({x})", "{x}")),
    "float16 with master": Words("from_float16_with_master({0}, {1})", ("to_float16({x})", "{x}")),
}
