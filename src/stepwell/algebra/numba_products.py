"""Symmetric products of matrices as a Numba kernel: what stands above the diagonal is the mirror image of what stands
below it, and is not worked out.

A thread takes a block of the result and sums it in a core's cache. It packs what it multiplies: LANES rows are a panel,
in which their first words lie side by side, then their second, and so on. (A word is a float32, or two bfloat16 of a
row.) A half of a panel times VECTORS panels is a tile, which is summed in registers. Goto and Van de Geijn 2008
(doi:10.1145/1356052.1356053) tell why.

Imported by a source that is to be compiled, and only once Numba is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from stepwell.algebra.cpu_products import FIELDS, VECTORS, WORDS
from stepwell.machine.memory import (
    float32_at,
    from_bfloat16,
    int64_at,
    local_words,
    next_chunk,
    pair_of,
    quiet,
    to_bfloat16,
    uint16_at,
    uint32_at,
    widest_vectors,
)
from stepwell.machine.vectors import tile_of, transposition_of

_COUNTERS, _ROWS, _INNER, _EDGE, _SEATS = map(FIELDS.index, ("counters_at", "rows", "inner", "edge", "seats_at"))
_X_AT, _X_ROW, _OUT_AT, _OUT_ROW, _FACTORS_AT = map(FIELDS.index, ("x_at", "x_row", "out_at", "out_row", "factors_at"))
_LEFT, _RIGHT = FIELDS.index("left_at"), FIELDS.index("right_at")

_jit = numba.njit(error_model="numpy", nogil=True)


def runner(lanes: int, *, from_pairs: bool, to_halves: bool) -> Callable[[Any], None]:
    """`run` for matrices of float32, or of bfloat16 (`from_pairs`), whose product is float32 or bfloat16 (`to_halves`).
    It gets the address of a frame (`FIELDS`), and works blocks out that no other thread has taken.
    """
    pack, add_product = _packer(lanes, from_pairs), tile_of(lanes, VECTORS, from_pairs)
    write = _writer(lanes, to_halves)
    numbers = 2 if from_pairs else 1
    tile_rows, tile_columns, panel = lanes // 2, VECTORS * lanes, 4 * lanes * WORDS

    def run(address: Any) -> None:
        frame = numba.carray(address, len(FIELDS))
        rows, edge, inner = frame[_ROWS], frame[_EDGE], frame[_INNER]
        in_a_row = (rows + edge - 1) // edge
        below = in_a_row * (in_a_row - 1) // 2
        sums_at = frame[_SEATS] + next_chunk(int64_at(frame[_COUNTERS] + 8)) * 4 * edge * (edge + 2 * WORDS)
        left_at = sums_at + 4 * edge * edge
        right_at = left_at + 4 * edge * WORDS
        sums = numba.carray(float32_at(sums_at), (edge, edge))
        number = next_chunk(int64_at(frame[_COUNTERS]))
        while number < below + in_a_row:
            if number < below:  # row by row: 0; 1, 2; 3, 4, 5; …
                i = np.int64((np.sqrt(8.0 * number + 1.0) - 1.0) * 0.5)
                i -= i * (i + 1) // 2 > number  # where the root was rounded across a whole number
                i += (i + 1) * (i + 2) // 2 <= number
                i, j = i + 1, number - i * (i + 1) // 2
            else:  # the smaller ones, on the diagonal, come last, so that all threads are done at about the same time
                i = j = number - below
            row, column = i * edge, j * edge
            height, width = min(edge, rows - row), min(edge, rows - column)
            one_packed = i == j and frame[_LEFT] == frame[_RIGHT] and frame[_LEFT + 1] == frame[_RIGHT + 1]
            sums[:] = 0.0
            for first in range(0, inner, WORDS * numbers):
                some = min(WORDS * numbers, inner - first)
                words = (some + numbers - 1) // numbers
                pack(frame[_LEFT], frame[_LEFT + 1], frame[_LEFT + 2], row, height, first, some, left_at)
                if not one_packed:
                    pack(frame[_RIGHT], frame[_RIGHT + 1], frame[_RIGHT + 2], column, width, first, some, right_at)
                right = left_at if one_packed else right_at
                for c in range(0, width, tile_columns):
                    for r in range(c if i == j else 0, height, tile_rows):
                        left = left_at + r // lanes * panel + r % lanes * 4
                        tile = sums_at + 4 * (r * edge + c)
                        add_product(left, right + c // lanes * panel, panel, tile, 4 * edge, words)
            write(sums_at, row, height, column, width, frame)
            number = next_chunk(int64_at(frame[_COUNTERS]))

    return run


def _packer(lanes: int, from_pairs: bool) -> Any:
    transpose = transposition_of(lanes)
    numbers = 2 if from_pairs else 1
    stripe, panel = VECTORS * lanes, 4 * lanes * WORDS

    @_jit
    def pack_rows(source: Any, row: Any, rows: Any, count: Any, packed_at: Any) -> None:
        """Of rows in whose memory number follows number."""
        words = count // numbers
        for first in range(0, words, lanes):
            if rows == lanes and first + lanes <= words:
                transpose(source + 4 * first, row, packed_at + 4 * lanes * first, 4 * lanes)
            else:
                width = min(lanes, words - first)
                packed = numba.carray(uint32_at(packed_at + 4 * lanes * first), (width, lanes))
                for r in range(rows):
                    given = numba.carray(uint32_at(source + r * row + 4 * first), width)
                    for i in range(width):
                        packed[i, r] = given[i]
                packed[:, rows:] = 0
        if words * numbers < count:
            packed = numba.carray(uint32_at(packed_at + 4 * lanes * words), (1, lanes))
            packed[0] = 0
            for r in range(rows):
                packed[0, r] = numba.carray(uint16_at(source + r * row + 4 * words), 1)[0]

    @_jit
    def pack_columns(source: Any, step: Any, rows: Any, count: Any, packed_at: Any) -> None:
        """Of rows in whose memory row follows row."""
        widest_vectors()
        for word in range(count // numbers):
            packed = numba.carray(uint32_at(packed_at + 4 * lanes * word), lanes)
            if from_pairs:
                lower = numba.carray(uint16_at(source + 2 * word * step), rows)
                upper = numba.carray(uint16_at(source + (2 * word + 1) * step), rows)
                for r in range(rows):
                    packed[r] = pair_of(lower[r], upper[r])
            else:
                given = numba.carray(uint32_at(source + word * step), rows)
                for r in range(rows):
                    packed[r] = given[r]
            packed[rows:] = 0
        if count % numbers:
            packed = numba.carray(uint32_at(packed_at + 4 * lanes * (count // numbers)), lanes)
            given = numba.carray(uint16_at(source + (count - 1) * step), rows)
            for r in range(rows):
                packed[r] = given[r]
            packed[rows:] = 0

    @_jit
    def pack(
        matrix: Any, row: Any, step: Any, first_row: Any, rows: Any, first: Any, count: Any, packed_at: Any
    ) -> None:
        """The panels of some rows, up to a whole number of stripes, with so many numbers of each from the first on."""
        source = matrix + first_row * row + first * step
        for r in range(0, (rows + stripe - 1) // stripe * stripe, lanes):
            there = min(lanes, max(0, rows - r))
            if step * numbers == 4:
                pack_rows(source + r * row, row, there, count, packed_at + r // lanes * panel)
            else:
                pack_columns(source + r * row, step, there, count, packed_at + r // lanes * panel)

    return pack


def _writer(lanes: int, to_halves: bool) -> Any:
    transpose, square = transposition_of(lanes), local_words(lanes * lanes)
    at, size = (uint16_at, 2) if to_halves else (float32_at, 4)

    @numba.njit(inline="always")
    def read(stored: Any) -> Any:
        return from_bfloat16(stored) if to_halves else stored

    @numba.njit(inline="always")
    def stored(number: Any) -> Any:
        return to_bfloat16(quiet(number)) if to_halves else number

    @_jit
    def write_square(sums_at: Any, row: Any, column: Any, frame: Any) -> None:
        """A square of the result below its diagonal, and its mirror image."""
        widest_vectors()
        factors = numba.carray(float32_at(frame[_FACTORS_AT]), 2)
        x_factor, factor = factors[0], factors[1]
        out_at, out_row, x_at, x_row = frame[_OUT_AT], frame[_OUT_ROW], frame[_X_AT], frame[_X_ROW]
        square_at = square()
        found = numba.carray(float32_at(square_at), (lanes, lanes))
        for r in range(lanes):
            total = numba.carray(float32_at(sums_at + 4 * frame[_EDGE] * r), lanes)
            out = numba.carray(at(out_at + (row + r) * out_row + size * column), lanes)
            if x_at:
                x = numba.carray(at(x_at + (row + r) * x_row + size * column), lanes)
                for c in range(lanes):
                    found[r, c] = factor * total[c] + x_factor * read(x[c])
            else:
                for c in range(lanes):
                    found[r, c] = factor * total[c]
            for c in range(lanes):
                out[c] = stored(found[r, c])
        if to_halves:
            transpose(square_at, 4 * lanes, square_at, 4 * lanes)
            for c in range(lanes):
                out = numba.carray(at(out_at + (column + c) * out_row + size * row), lanes)
                for r in range(lanes):
                    out[r] = stored(found[c, r])
        else:
            transpose(square_at, 4 * lanes, out_at + column * out_row + size * row, out_row)

    @_jit
    def write_some(sums_at: Any, row: Any, column: Any, frame: Any) -> None:
        """The same of a square that the diagonal or the edge of the result crosses."""
        factors = numba.carray(float32_at(frame[_FACTORS_AT]), 2)
        for r in range(row, min(row + lanes, frame[_ROWS])):
            total = numba.carray(float32_at(sums_at + 4 * frame[_EDGE] * (r - row)), lanes)
            for c in range(column, min(column + lanes, r + 1)):
                number = factors[1] * total[c - column]
                if frame[_X_AT]:
                    x = numba.carray(at(frame[_X_AT] + r * frame[_X_ROW] + size * c), 1)
                    number += factors[0] * read(x[0])
                numba.carray(at(frame[_OUT_AT] + r * frame[_OUT_ROW] + size * c), 1)[0] = stored(number)
                numba.carray(at(frame[_OUT_AT] + c * frame[_OUT_ROW] + size * r), 1)[0] = stored(number)

    @_jit
    def write(sums_at: Any, row: Any, height: Any, column: Any, width: Any, frame: Any) -> None:
        """A block of the result, on its diagonal or below it, and its mirror image."""
        edge = frame[_EDGE]
        for r in range(0, height, lanes):
            for c in range(0, min(width, r + lanes) if row == column else width, lanes):
                found = sums_at + 4 * (r * edge + c)
                if row + r > column + c and r + lanes <= height:
                    write_square(found, row + r, column + c, frame)
                else:
                    write_some(found, row + r, column + c, frame)

    return write
