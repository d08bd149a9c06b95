"""What a Numba kernel does with vector registers that LLVM would not find by itself: a tile of a matrix product, and
the transposition of a square of words.

Kernels import this module by name; it is imported only once Numba is. A word is 4 bytes: a float32, or two bfloat16.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLOAT, _WORD, _ADDRESS = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class _BFloat16(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's `bfloat`, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def tile_of(lanes: int, vectors: int, pairs: bool) -> Any:
    """An intrinsic that adds a product to a tile of lanes // 2 rows and vectors · lanes columns, in float32.

    A tile of 3 vectors fills the registers that a processor has: of 32 with 16 words 24, and 3 + 1 with what is
    multiplied; of 16 with 8 words 12 and 3 + 1.

    It takes the address of the first word of its rows on the left, a panel of which `lanes` belong to a step; that of a
    panel on the right and the bytes from this to each of the next; that of the tile, the bytes from row to row of it;
    and the number of steps, at least 1. A step multiplies a word of each row with a word of each column: two float32,
    or two pairs of bfloat16, of which both products are added.
    """
    vector, words = ir.VectorType(_FLOAT, lanes), ir.VectorType(_WORD, lanes)
    on_the_right = ir.VectorType(_BFloat16(), 2 * lanes) if pairs else vector
    one, every = (_WORD, words) if pairs else (_FLOAT, vector)
    rows, columns = range(lanes // 2), range(vectors)

    def multiply_add(builder: Any, left: Any, right: Any, total: Any) -> Any:
        if pairs:
            kind, name = ir.FunctionType(vector, [vector, on_the_right, on_the_right]), "dpbf16ps"
            dot = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512bf16.{name}.{32 * lanes}")
            return builder.call(dot, [total, builder.bitcast(left, on_the_right), right])
        kind = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{lanes}f32")
        return builder.call(fma, [left, right, total])

    def spread(builder: Any, number: Any) -> Any:
        first = builder.insert_element(ir.Constant(every, ir.Undefined), number, _WORD(0))
        return builder.shuffle_vector(first, ir.Constant(every, ir.Undefined), ir.Constant(words, [0] * lanes))

    @intrinsic
    def add_product(
        typing_context: Any, left: Any, right: Any, panel: Any, tile: Any, tile_row: Any, steps: Any
    ) -> Any:
        del typing_context, left, right, panel, tile, tile_row, steps

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del context, signature
            left, right, panel, tile, tile_row, steps = arguments

            def moved(address: Any, count: int, by: Any) -> Any:
                return builder.add(address, builder.mul(by, _ADDRESS(count)))

            def at(address: Any, kind: Any) -> Any:
                return builder.inttoptr(address, kind.as_pointer())

            places = [
                [at(moved(moved(tile, r, tile_row), v, _ADDRESS(4 * lanes)), vector) for v in columns] for r in rows
            ]
            starts = [[builder.load(place, align=4) for place in row] for row in places]
            panels = [moved(right, v, panel) for v in columns]
            before = builder.block
            loop, after = builder.append_basic_block("steps"), builder.append_basic_block("summed")
            builder.branch(loop)

            builder.position_at_end(loop)
            step = builder.phi(_ADDRESS)
            totals = [[builder.phi(vector) for _ in columns] for _ in rows]
            offset = builder.mul(step, _ADDRESS(4 * lanes))
            rights = [builder.load(at(builder.add(each, offset), on_the_right), align=4) for each in panels]
            sums = []
            for r in rows:
                number = builder.load(at(builder.add(builder.add(left, offset), _ADDRESS(4 * r)), one), align=4)
                spread_left = spread(builder, number)
                sums.append([multiply_add(builder, spread_left, rights[v], totals[r][v]) for v in columns])
            following = builder.add(step, _ADDRESS(1))
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
            step.add_incoming(_ADDRESS(0), before)
            step.add_incoming(following, loop)
            for r in rows:
                for v in columns:
                    totals[r][v].add_incoming(starts[r][v], before)
                    totals[r][v].add_incoming(sums[r][v], loop)

            builder.position_at_end(after)
            for r in rows:
                for v in columns:
                    builder.store(sums[r][v], places[r][v], align=4)
            return _ADDRESS(0)

        return types.int64(*[types.int64] * 6), generate

    return add_product


def transposition_of(lanes: int) -> Any:
    """An intrinsic that writes lanes × lanes words so that rows are columns, given the address and the bytes from row
    to row of what is read, then of what is written, which may be the same."""
    words = ir.VectorType(_WORD, lanes)

    @intrinsic
    def transpose(typing_context: Any, source: Any, source_row: Any, target: Any, target_row: Any) -> Any:
        del typing_context, source, source_row, target, target_row

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del context, signature
            source, source_row, target, target_row = arguments

            def row_at(address: Any, row: Any, number: int) -> Any:
                return builder.inttoptr(builder.add(address, builder.mul(row, _ADDRESS(number))), words.as_pointer())

            rows = [builder.load(row_at(source, source_row, r), align=1) for r in range(lanes)]
            size = lanes // 2
            while size:  # of squares of 2·size, those on one side of the diagonal change places with those on the other
                first = [lane + (lanes - size if lane & size else 0) for lane in range(lanes)]
                second = [lane + (lanes if lane & size else size) for lane in range(lanes)]
                for r in range(lanes):
                    if not r & size:
                        pair = rows[r], rows[r + size]
                        rows[r] = builder.shuffle_vector(*pair, ir.Constant(words, first))
                        rows[r + size] = builder.shuffle_vector(*pair, ir.Constant(words, second))
                size //= 2
            for r, row in enumerate(rows):
                builder.store(row, row_at(target, target_row, r), align=1)
            return _ADDRESS(0)

        return types.int64(*[types.int64] * 4), generate

    return transpose
