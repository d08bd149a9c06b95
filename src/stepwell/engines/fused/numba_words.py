"""What the writers of Numba source share: how numbers are read, written and named, and how the memory is laid out."""

from __future__ import annotations

import keyword
import math
import re

import torch

from stepwell.codecs import Codec
from stepwell.engines.fused.codec_words import WORDS

# How an array of each dtype stands in memory.
POINTERS = {
    torch.float64: "float64_at",
    torch.float32: "float32_at",
    torch.bfloat16: "uint16_at",
    torch.float16: "uint16_at",
    torch.int16: "uint16_at",
    torch.int8: "uint8_at",
    torch.uint8: "uint8_at",
}


# Rounded by an addition to the number's bits, which must not make a number of NaN.
CARRYING = frozenset(word for word in WORDS if "bfloat16" in word)
FUNCTIONS = {
    "sqrt": "math.sqrt",
    "absolute": "abs",
    "exp": "math.exp",
    "log": "math.log",
    "cos": "math.cos",
    "floor": "math.floor",
}

# What the table of chunks says of each: `lines` pieces of `width` elements of tensor `owner`, one after the other, from
# element `start` on. Where rows count, a piece is a row: the first is `row` among those of all tensors, and the sums of
# its columns lie at `column_sum` among those of all chunks.
CHUNK = ("owner", "start", "lines", "width", "row", "column_sum")
# What the table of tensors says of each: its sizes, where its rows, columns and chunks stand among those of all
# tensors, and where the sums of its first chunk's columns do.
TENSOR = ("elements", "rows", "columns", "row", "column", "first_chunk", "parts", "column_sum")
# What the frame holds, each an int64: the counter comes first, and `_at` ends what is an address.
FRAME = (
    "counter", "step", "items", "tensors", "rows_of_scalars", "table_at", "classes_at", "scalars_at",
    "chunks_at", "chunks", "sizes_at", "sums_at", "kept_at",
    "kept_rows_at", "all_rows", "kept_columns_at", "all_columns", "column_sums_at", "all_column_sums", "keys_at",
    "origins_at",
)  # fmt: skip


# What kernels themselves use: fields, variables, and the functions of `memory`, `stored` and `block_memory`.
_TAKEN = frozenset((*CHUNK, *TENSOR, *FRAME)) | {
    "abs", "address", "at", "classes", "column_sums", "first", "frame", "halves", "hashed", "hashes", "high", "i",
    "item", "kept", "kept_columns", "kept_rows", "keys", "len", "low", "math", "max", "min", "np", "numba", "origin",
    "origins", "pairs", "part", "place", "range", "run", "scalars", "size", "sizes", "sums", "table", "totals",
    "Any", "BLOCK", "Blocks", "ROUNDS", "SMALLEST", "add_up", "add_up_product", "annotations", "bits_of", "cgutils",
    "draw", "fetch", "float32_at", "float64_at", "from_bfloat16", "from_bfloat16_with_master", "from_float16",
    "from_float16_with_master", "from_halves", "from_kahan", "halve_elements", "hash_of", "int64_at", "intrinsic", "ir",
    "kahan_error", "larger", "least", "llvm", "local_array", "local_words", "lower_half", "lower_of", "multiply",
    "next_chunk", "number_of_bits", "pair_of", "place_of", "quiet", "random_bits", "third_byte",
    "to_24_bits", "to_bfloat16", "to_bfloat16_by_chance", "to_float16", "types", "uint16_at", "uint32_at", "uint8_at",
    "upper_half", "upper_of", "wide_remainder", "widest_vectors",
}  # fmt: skip
_NUMBERED = re.compile(r"(c|t|x|k|q|r|sum|row_sum|total|phase|lower|upper|word)\d*$")
# What is made of the names of slots, and of codecs.
_MADE = re.compile(r"largest_|.*_(bits|codes|numbers|product|scale|share|slot|in_pairs|(un)?signed)?$")


def array(name: str) -> str:
    """What an array is called in the source: as the rule calls it, unless the kernel itself uses that word."""
    known = name in _TAKEN or _NUMBERED.match(name) or _MADE.match(name) or keyword.iskeyword(name)
    return f"{name}_slot" if known else name


def kind(codec: Codec) -> str:
    """What a codec is called at the end of the names of its functions."""
    return codec.word.replace(" ", "_")


def constant(value: float | bool, compute: str) -> str:
    """A number in the dtype that is computed with."""
    if isinstance(value, bool):
        return repr(value)
    if not math.isfinite(value):
        return f"np.{compute}({'np.nan' if math.isnan(value) else 'np.inf' if value > 0 else '-np.inf'})"
    return f"np.{compute}({value!r})"


def indented(lines: list[str], depth: int = 1) -> list[str]:
    """The lines, further to the right."""
    return [f"{'    ' * depth}{line}" for line in lines]
