"""What the writers of Triton source share: how numbers are read, written and named, and how the memory is laid out."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable

from stepwell.algebra.tracing import Expression, Level
from stepwell.engines.fused.source import INFIX, Writer

# Worked out in float64 and rounded: what the GPU has for float32 is less exact, and few rules need them.
_WIDE = {"exp": "tl.exp", "log": "tl.log", "cos": "tl.cos"}
FUNCTIONS = {
    "float64": {"sqrt": "tl.sqrt({})", "absolute": "tl.abs({})", "floor": "tl.floor({})"}
    | {name: f"{function}({{}})" for name, function in _WIDE.items()},
    # Triton's plain square root and quotient of float32 are rounded carelessly.
    "float32": {"sqrt": "tl.sqrt_rn({})", "absolute": "tl.abs({})", "floor": "tl.floor({})"}
    | {name: f"{function}(({{}}).to(tl.float64)).to(tl.float32)" for name, function in _WIDE.items()},
}

# What the table of chunks says of each. Where no rows count: `size` elements of tensor `owner` from `start` on.
CHUNK = ("owner", "start", "size")
# Where rows count: `lines` rows of tensor `owner` from `line` on, and as many of their columns as a tile has from `at`
# on. `row` and `column` are where the first of them stand among those of all tensors, `row_sum` and `column_sum` where
# their sums do.
TILE = ("owner", "line", "lines", "at", "row", "column", "row_sum", "column_sum", "columns")
# What the table of tensors says of each: its sizes, where its rows, columns and chunks stand among those of all
# tensors, how many chunks it has, and, where rows count, where the sums of its rows and columns stand, and how many
# tiles lie beside and below each other.
TENSOR = (
    "elements", "rows", "columns", "row", "column", "first_chunk", "parts", "row_sum", "column_sum", "beside", "below",
)  # fmt: skip

# Elements that a program takes at once, in a run or in a tile: with twice as many, rules with several sums have more
# numbers than registers. How many rows, or columns, or sums, a finish takes at once; and how wide tiles are, so that a
# narrow matrix does not leave most of one empty.
BLOCK, LINES = 1024, 512
WIDTHS = (4, 32, 256)
# Elements up to a multiple of this are loaded and stored in words of 16 bytes.
WORD = 16


_TAKEN = frozenset((*CHUNK, *TILE, *TENSOR)) | {
    "ALIGN", "COLUMNS", "ROWS", "across", "block", "chunk", "chunks", "column_sums", "counts", "down", "first",
    "hashed", "here", "high", "hyper", "i", "inside", "kept", "kept_columns", "kept_rows", "lane", "low", "origin",
    "out", "part", "place", "power", "row_sums", "scalars", "sizes", "sums", "table", "there", "tl", "top", "triton",
    "verdict", "whole",
}  # fmt: skip
_NUMBERED = re.compile(r"(c|h|q|s|t|x|acc|rest|sum|elements|finish|phase)\d*$")


def array(name: str) -> str:
    """What an array is called in the source: as the rule calls it, unless the kernel itself uses that word."""
    return f"{name}_slot" if name in _TAKEN or _NUMBERED.match(name) or keyword.iskeyword(name) else name


def indented(lines: list[str], depth: int = 1) -> list[str]:
    """The lines, further to the right."""
    return [f"{'    ' * depth}{line}" for line in lines]


class Maths(Writer):
    """Writes expressions as Triton source, in numbers of one dtype. Constants get a line each, before all others."""

    def __init__(self, compute: str, leaf: Callable[[Expression], str | None], prefix: str) -> None:
        self.constants: dict[str, str] = {}
        self._compute = compute
        super().__init__(FUNCTIONS[compute], self.constant, leaf, prefix)

    def constant(self, value: float | bool) -> str:
        """The name of a constant."""
        if isinstance(value, bool):
            text, dtype = str(int(value)), "int1"
        else:
            text = repr(value) if math.isfinite(value) else f'float("{value}")'
            dtype = self._compute
        # A bare number beside another bare one would be a float32, whatever is computed with.
        line = f"tl.full([], {text}, tl.{dtype})"
        return self.constants.setdefault(line, f"q{len(self.constants)}")

    @property
    def constant_lines(self) -> list[str]:
        """What gives the constants their names."""
        return [f"{name} = {text}" for text, name in self.constants.items()]

    def _expression(self, node: Expression) -> str:
        x = [self.text(argument) for argument in node.arguments]
        match node.operation:
            case "div" if self._compute == "float32":
                return f"tl.div_rn({x[0]}, {x[1]})"
            case "reciprocal":  # of a scalar: in float64
                return f"({self.constant(1.0)} / {x[0]})"
            case "pow" if node.arguments[1].value == 2.0:
                return f"({x[0]} * {x[0]})"
            case "pow":
                wide = [f"({each}).to(tl.float64)" for each in x] if self._compute == "float32" else x
                return f"power({', '.join(wide)}).to(tl.{self._compute})"
            case "neg":
                return f"(-{x[0]})"
            case "spread":
                return x[0]
            case "where":
                return f"tl.where({self._condition(node.arguments[0])}, {x[1]}, {x[2]})"
            case "sign":
                one, zero, below = (self.constant(value) for value in (1.0, 0.0, -1.0))
                return f"tl.where({x[0]} > {zero}, {one}, tl.where({x[0]} < {zero}, {below}, {zero}))"
            case "minimum" | "maximum":
                better = "<" if node.operation == "minimum" else ">"
                return f"tl.where({x[1]} {better} {x[0]}, {x[1]}, tl.where({x[1]} != {x[1]}, {x[1]}, {x[0]}))"
            case operation if operation in INFIX:
                return f"({x[0]} {INFIX[operation]} {x[1]})"
        return self._functions[node.operation].format(x[0])

    def _condition(self, node: Expression) -> str:
        """A truth value; one that was worked out on the host has come as a number."""
        text = self.text(node)
        return f"({text} != 0)" if node.level <= Level.SCALAR else text
