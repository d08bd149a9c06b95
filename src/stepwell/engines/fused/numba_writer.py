"""A program as Numba source: for each phase a loop over chunks of all tensors, and the rule's maths in each loop."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.algebra.tracing import Expression, Level
from stepwell.engines.fused.numba_finish import finish
from stepwell.engines.fused.numba_words import (
    CHUNK,
    FRAME,
    FUNCTIONS,
    ITEM_SIZES,
    POINTERS,
    READERS,
    TENSOR,
    WRITERS,
    array,
    constant,
    indented,
)
from stepwell.engines.fused.program import Phase, Program
from stepwell.engines.fused.source import Writer

_JIT = '@numba.njit(fastmath=FAST, error_model="numpy", nogil=True)\n'
_BLOCK = 1024

_HEADER = '''"""{name}, for {dtypes}.

Written by stepwell from the trace of the rule. `run` works one step out, by as many threads as call it. It gets the
address of a frame: a counter of the chunks (or tensors) taken, the step, how many of them there are, and the sizes and
addresses of tables. `table` holds the addresses of all tensors, one row an array; a chunk is `lines` pieces of `width`
elements each of tensor `owner`, from element `start` on; `classes` says which row of `scalars` a tensor uses.
"""

import math

import numba
import numpy as np

from stepwell.engines.fused.memory import (
    float32_at,
    float64_at,
    from_bfloat16,
    from_float16,
    int64_at,
    next_chunk,
    to_bfloat16,
    to_float16,
    uint16_at,
)

# nnan and ninf are left out: NaN and infinity must be seen.
FAST = {fast}
'''


def write(program: Program, dtypes: Mapping[str, str]) -> str:
    """The source of a module whose `run` works one step of the program out, given the frame of a
    `stepwell.engines.fused.engine.Launch`.

    Args:
        program: what to write.
        dtypes: the dtype of each array, by name: "float64", "float32", "bfloat16" or "float16".
    """
    compute = computed_in(dtypes)
    # A sum is spread over the lanes of a vector. Without sums every element is worked out as written, so that the
    # result has the same bits wherever a tensor is cut.
    fast = '{"nsz", "reassoc"}' if program.reductions else "False"
    described = ", ".join(f"{name} {dtypes[name]}" for name in program.arrays)
    parts = [_HEADER.format(name=program.name, dtypes=described, fast=fast)]
    parts += [_phase(program, number, phase, dtypes, compute) for number, phase in enumerate(program.phases)]
    parts.append(_driver(program, dtypes, compute))
    return "\n\n".join(parts)


def computed_in(dtypes: Mapping[str, str]) -> str:
    """The dtype of the arithmetic on arrays of these dtypes."""
    return "float64" if "float64" in dtypes.values() else "float32"


def _arrays(phase: Phase) -> list[str]:
    """The arrays of elements that the phase loads or stores."""
    stored = [name for name, _ in phase.stores]
    return [*phase.loads, *(name for name in stored if name not in phase.loads)]


def _returned(phase: Phase) -> list[Expression]:
    """The sums over a piece of a tensor: for the tensor, and for the row that it lies in."""
    return [*phase.reductions_to(Level.TENSOR), *phase.reductions_to(Level.ROW)]


def _phase(program: Program, number: int, phase: Phase, dtypes: Mapping[str, str], compute: str) -> str:
    """One phase over a piece of a tensor: the rule's maths, element by element."""
    scalars = {node.index: f"c{index}" for index, node in enumerate(program.scalars)}
    single = {node.index: f"t{node.index}" for node in phase.leaves if node.level is not Level.COLUMN}
    by_column = {node.index: f"k{node.index}" for node in phase.leaves if node.level is Level.COLUMN}
    to_column = phase.reductions_to(Level.COLUMN)

    def leaf(node: Expression) -> str | None:
        if node in phase.already_stored:
            return f"{array(phase.already_stored[node])}_"
        if node.index in by_column:
            return f"{by_column[node.index]}_"
        if node.operation == "load" and node.level is Level.ELEMENT:
            return f"{array(node.value)}_"
        return scalars.get(node.index) or single.get(node.index)

    writer = Writer(FUNCTIONS, lambda value: constant(value, compute), leaf, "x")
    results = [*(e for _, e in phase.stores), *(r.arguments[0] for r in phase.reductions)]
    writer.write(phase.values, results)
    arguments = [*map(array, _arrays(phase)), *by_column.values(), *(f"q{r.index}" for r in to_column), "size", "c"]
    lines = [f"def phase{number}({', '.join([*arguments, *single.values()])}):"]
    used = {a.index for e in (*phase.values, *results) for a in e.arguments}
    lines += [
        f"    c{index} = np.{compute}(c[{index}])  # {node!r}"
        for index, node in enumerate(program.scalars)
        if node.index in used
    ]
    body = [f"{array(name)}_ = {READERS[dtypes[name]].format(f'{array(name)}[i]')}" for name in phase.loads]
    body += [f"{name}_ = {name}[i]" for name in by_column.values()]
    body += writer.lines
    body += [f"{array(name)}[i] = {WRITERS[dtypes[name]].format(writer.text(e))}" for name, e in phase.stores]
    body += [f"q{r.index}[i] += {writer.text(r.arguments[0])}" for r in to_column]
    sums = _returned(phase)
    body += [f"total{r.index} += {writer.text(r.arguments[0])}" for r in sums]
    lines += [f"    total{r.index} = np.{compute}(0.0)" for r in sums]
    lines += ["    for i in range(size):", *indented(body, 2)]
    if sums:
        lines.append(f"    return {', '.join(f'total{r.index}' for r in sums)},")
    return _JIT + "\n".join(lines)


def _driver(program: Program, dtypes: Mapping[str, str], compute: str) -> str:
    """One step over all chunks or tensors: each thread takes the next that nobody has taken."""
    real = f"{compute}_at"
    kept = {level: max(1, len(program.kept[level])) for level in program.kept}
    lines = [
        f"frame = numba.carray(address, {len(FRAME)})",
        *(f"{name} = frame[{number}]" for number, name in enumerate(FRAME) if number and name != "chunks"),
        f"table = numba.carray(int64_at(table_at), ({len(program.arrays)}, tensors))",
        "classes = numba.carray(int64_at(classes_at), tensors)",
        f"scalars = numba.carray(float64_at(scalars_at), (rows_of_scalars, {max(1, len(program.scalars))}))",
        f"chunks = numba.carray(int64_at(chunks_at), (frame[{FRAME.index('chunks')}], {len(CHUNK)}))",
    ]
    if any(number % 2 == 0 for number, _ in program.steps):
        width = max(1, len(program.sums))
        lines += [
            f"sizes = numba.carray(int64_at(sizes_at), (tensors, {len(TENSOR)}))",
            f"sums = numba.carray(float64_at(sums_at), (len(chunks), {width}))",
            f"kept = numba.carray(float64_at(kept_at), (tensors, {kept[Level.TENSOR]}))",
        ]
    if program.has_rows:
        width = max(1, len(program.column_sums))
        lines += [
            f"kept_rows = numba.carray({real}(kept_rows_at), ({kept[Level.ROW]}, all_rows))",
            f"kept_columns = numba.carray({real}(kept_columns_at), ({kept[Level.COLUMN]}, all_columns))",
            f"column_sums = numba.carray({real}(column_sums_at), ({width}, all_column_sums))",
        ]
    for number, step in program.steps:
        if isinstance(step, Phase):
            body = _chunk(program, number // 2, step, dtypes, compute)
        else:
            body = finish(program, step, dtypes)
        lines += [
            f"if step == {number}:",
            "    item = next_chunk(address)",
            "    while item < items:",
            *indented(body, 2),
            "        item = next_chunk(address)",
        ]
    return "\n".join(["def run(address):", *indented(lines)]) + "\n"


def _chunk(program: Program, number: int, phase: Phase, dtypes: Mapping[str, str], compute: str) -> list[str]:
    """One phase over one chunk."""
    to_tensor, to_row, to_column = map(phase.reductions_to, (Level.TENSOR, Level.ROW, Level.COLUMN))
    leaves = {level: [e for e in phase.leaves if e.level is level] for level in program.kept}
    single = [e for e in phase.leaves if e.level is not Level.COLUMN]
    lines = [
        *(f"{name} = chunks[item, {position}]" for position, name in enumerate(CHUNK)),
        *(f"t{e.index} = np.{compute}(kept[owner, {program.position(e)}])" for e in leaves[Level.TENSOR]),
        *(f"sum{e.index} = 0.0" for e in to_tensor),
    ]
    if leaves[Level.COLUMN]:
        lines.append(f"column = sizes[owner, {TENSOR.index('column')}]")
    for e in to_column:
        lines += ["for i in range(width):", f"    column_sums[{program.sum_position(e)}, column_sum + i] = 0.0"]

    views = [
        (array(name), dtypes[name], f"table[{program.arrays.index(name)}, owner]", "start") for name in _arrays(phase)
    ]
    views += [
        (f"k{e.index}", compute, "kept_columns_at", f"all_columns * {program.position(e)} + column")
        for e in leaves[Level.COLUMN]
    ]
    views += [
        (f"q{e.index}", compute, "column_sums_at", f"all_column_sums * {program.sum_position(e)} + column_sum")
        for e in to_column
    ]
    # Made of addresses: slices bring Numba's runtime along, which is not there when a kernel is loaded from its file.
    piece = [
        f"{name} = numba.carray({POINTERS[dtype]}({base} + {ITEM_SIZES[dtype]} * ({place} + at)), size)"
        for name, dtype, base, place in views
    ]
    arguments = [*(name for name, *_ in views), "size", "scalars[classes[owner]]", *(f"t{e.index}" for e in single)]
    call = f"phase{number}({', '.join(arguments)})"
    returned = _returned(phase)
    if returned:
        # A block is summed in the numbers computed with, which fill a vector; the blocks' sums add up in float64.
        piece.append(f"totals = {call}")
        for position, e in enumerate(returned):
            variable = "sum" if e.level is Level.TENSOR else "row_sum"
            piece.append(f"{variable}{e.index} += np.float64(totals[{position}])")
        piece = [
            f"for at in range(0, width, {_BLOCK}):",
            f"    size = min({_BLOCK}, width - at)",
            *indented(piece),
        ]
    else:
        piece = ["at, size = 0, width", *piece, call]
    line = [
        *(f"t{e.index} = kept_rows[{program.position(e)}, row]" for e in leaves[Level.ROW]),
        *(f"row_sum{e.index} = 0.0" for e in to_row),
        *piece,
        *(f"kept_rows[{program.position(e)}, row] = row_sum{e.index}" for e in to_row),
        "start += width",
    ]
    if program.has_rows:
        line.append("row += 1")
    return [
        *lines,
        "for _ in range(lines):",
        *indented(line),
        *(f"sums[item, {program.sum_position(e)}] = sum{e.index}" for e in to_tensor),
    ]
