"""A program as Numba source: for each phase a loop over chunks of all tensors, and the rule's maths in each loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from stepwell.algebra.tracing import Level
from stepwell.codecs import Codec
from stepwell.codecs.blocks import BLOCK
from stepwell.engines.fused.arrays import (
    arrays,
    arrays_of,
    code_bits,
    computed_in,
    draws,
    factor,
    in_blocks,
    numbers_of,
)
from stepwell.engines.fused.numba_finish import finish
from stepwell.engines.fused.numba_phases import (
    IN_PAIRS,
    drawn_before,
    passed,
    phase_source,
    read_as_codes,
    returned,
    rows_of,
    sizes_of,
    stored_by,
    takes_whole,
    works_in_pairs,
    works_in_rows,
)
from stepwell.engines.fused.numba_words import CHUNK, FRAME, POINTERS, TENSOR, array, indented, kind
from stepwell.engines.fused.program import Phase, Program

# An array in a chunk: its name, its dtype, the address of a tensor's, and where in it the chunk begins.
_View = tuple[str, torch.dtype, str, str]
_HEADER = '''"""{name}, for {stored}.

Written by stepwell from the trace of the rule. `run` works one step out, by as many threads as call it. It gets the
address of a frame: a counter of the chunks (or tensors) taken, the step, how many of them there are, and the sizes and
addresses of tables. `table` holds the addresses of all tensors, one row an array; a chunk is `lines` pieces of `width`
elements each of tensor `owner`, from element `start` on; `classes` says which row of `scalars` a tensor uses.
"""

import math

import numba
import numpy as np

from stepwell.engines.fused.stored import *{blocks}
from stepwell.machine.memory import *
'''


def write(program: Program, codecs: Mapping[str, Codec]) -> str:
    """The source of a module whose `run` works one step of the program out, given the frame of a
    `stepwell.engines.fused.engine.Launch`.

    Args:
        program: what to write.
        codecs: how each number is stored, by name. Their order is the order of the random bits.
    """
    compute = computed_in(codecs)
    blocks = "\nfrom stepwell.engines.fused.block_memory import *" if in_blocks(program.arrays, codecs) else ""
    described = ", ".join(f"{name} {codecs[name].word}" for name in program.arrays)
    parts = [_HEADER.format(name=program.name, stored=described, blocks=blocks)]
    for number, phase in enumerate(program.phases):
        parts.append(phase_source(program, number, phase, codecs, compute))
        if works_in_pairs(program, phase, codecs):
            parts.append(phase_source(program, number, phase, codecs, compute, pairs=True))
    parts.append(_driver(program, codecs, compute))
    return "\n\n".join(parts)


def _driver(program: Program, codecs: Mapping[str, Codec], compute: str) -> str:
    """One step over all chunks or tensors: each thread takes the next that nobody has taken."""
    real = f"{compute}_at"
    kept = {level: max(1, len(program.kept[level])) for level in program.kept}
    lines = [
        "widest_vectors()",
        f"frame = numba.carray(address, {len(FRAME)})",
        *(f"{name} = frame[{number}]" for number, name in enumerate(FRAME) if number and name != "chunks"),
        f"table = numba.carray(int64_at(table_at), ({len(arrays(program, codecs))}, tensors))",
        "classes = numba.carray(int64_at(classes_at), tensors)",
        f"scalars = numba.carray(float64_at(scalars_at), (rows_of_scalars, {max(1, len(program.scalars))}))",
        f"chunks = numba.carray(int64_at(chunks_at), (frame[{FRAME.index('chunks')}], {len(CHUNK)}))",
    ]
    if any(draws(phase, codecs) for phase in program.phases):
        lines += [f"{name} = numba.carray(int64_at({name}_at), tensors)" for name in ("keys", "origins")]
    blocks = in_blocks(program.arrays, codecs)
    if blocks:
        lines += [f"{array(name)}_numbers = local_array()" for name in blocks]
        lines += ["hashes = local_array()", "halves = local_array()"]
        lines += [f"{array(name)}_product = local_array()" for name in program.arrays if _has_product(name, codecs)]
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
            f"kept_rows = numba.carray(float64_at(kept_rows_at), ({kept[Level.ROW]}, all_rows))",
            f"kept_columns = numba.carray({real}(kept_columns_at), ({kept[Level.COLUMN]}, all_columns))",
            f"column_sums = numba.carray({real}(column_sums_at), ({width}, all_column_sums))",
        ]
    for number, step in program.steps:
        if isinstance(step, Phase):
            body = _chunk(program, number // 2, step, codecs, compute)
        else:
            body = finish(program, step, codecs)
        lines += [
            f"if step == {number}:",
            "    item = next_chunk(address)",
            "    while item < items:",
            *indented(body, 2),
            "        item = next_chunk(address)",
        ]
    return "\n".join(["def run(address):", *indented(lines)]) + "\n"


def _chunk(program: Program, number: int, phase: Phase, codecs: Mapping[str, Codec], compute: str) -> list[str]:
    """One phase over one chunk."""
    to_tensor, to_row, to_column = map(phase.reductions_to, (Level.TENSOR, Level.ROW, Level.COLUMN))
    leaves = {level: [e for e in phase.leaves if e.level is level] for level in program.kept}
    single = [e for e in phase.leaves if e.level is not Level.COLUMN]
    lines = [
        *(f"{name} = chunks[item, {position}]" for position, name in enumerate(CHUNK)),
        *(f"t{e.index} = np.{compute}(kept[owner, {program.position(e)}])" for e in leaves[Level.TENSOR]),
        *(f"sum{e.index} = 0.0" for e in to_tensor),
    ]
    if draws(phase, codecs):
        lines += ["low = np.uint32(keys[owner])", "high = np.uint32(keys[owner] >> 32)", "origin = origins[owner]"]
    if leaves[Level.COLUMN]:
        lines.append(f"column = sizes[owner, {TENSOR.index('column')}]")
    for e in to_column:
        lines += ["for i in range(width):", f"    column_sums[{program.sum_position(e)}, column_sum + i] = 0.0"]

    real = getattr(torch, compute)
    views: list[_View] = [
        (array(part.name), part.dtype, f"table[{row}, owner]", "start")
        for name in numbers_of(phase)
        if codecs[name].block == 1
        for row, part in arrays_of(name, program, codecs)
    ]
    # The memory of the next block is asked for while this one is rounded, which takes none.
    fetched = [
        f"fetch({base} + {dtype.itemsize} * ({place} + at + {BLOCK}), {dtype.itemsize * BLOCK})"
        for _, dtype, base, place in views
    ]
    views += [
        (f"k{e.index}", real, "kept_columns_at", f"all_columns * {program.position(e)} + column")
        for e in leaves[Level.COLUMN]
    ]
    views += [
        (f"q{e.index}", real, "column_sums_at", f"all_column_sums * {program.sum_position(e)} + column_sum")
        for e in to_column
    ]
    in_loop = draws(phase, codecs) and not in_blocks(numbers_of(phase), codecs)
    random = ["low", "high", "np.uint32(origin + start + at)"] if in_loop else []
    random += [f"numba.carray(uint16_at({_bits(name, codecs)}), size)" for name in drawn_before(phase, codecs)]
    for known in map(array, read_as_codes(phase, codecs)):
        random += [f"numba.carray(uint8_at({known}_codes), size)", f"{known}_share"]
    elements = [array(part) for name in numbers_of(phase) for part in passed(name, phase, codecs)]
    others = [name for name, *_ in views if name not in elements]
    in_rows = works_in_rows(phase, codecs)
    sizes, rows = sizes_of(phase, codecs), rows_of(phase) if in_rows else []
    once = {e.index for e in rows}
    shared = ["scalars[classes[owner]]", *random, *(f"t{e.index}" for e in single if e.index not in once)]
    sums = [
        ("sum" if e.level is Level.TENSOR else "row_sum") + str(e.index) for e in returned(phase) if e.index not in once
    ]
    added = [f"{name} += np.float64(totals[{position}])" for position, name in enumerate(sums)]
    # Made of addresses: slices bring Numba's runtime along, which is not there when a kernel is loaded from its file.
    piece = [
        f"{name} = numba.carray({POINTERS[dtype]}({base} + {dtype.itemsize} * ({place} + at)), size)"
        for name, dtype, base, place in views
    ]
    decoded, encoded = _blocks(program, phase, codecs)
    call = f"phase{number}({', '.join([*elements, *others, *sizes, *shared])})"
    piece += [*decoded, f"totals = {call}" if sums or encoded else call, *added]
    if works_in_pairs(program, phase, codecs):
        pairs = _pairs(f"phase{number}", views, sizes, shared, added, whole=in_loop)
        piece = [*pairs, "if size:", *indented(piece)]
    of_tensor = [f"sums[item, {program.sum_position(e)}] = sum{e.index}" for e in to_tensor]
    if takes_whole(phase, codecs):
        of_rows = []
        for e in rows:
            place = f"kept_rows_at + 8 * (all_rows * {program.position(e)} + row)"
            of_rows.append(f"r{e.index} = numba.carray(float64_at({place}), lines)")
        return [*lines, *of_rows, "at, size = 0, lines * width", *piece, *of_tensor]

    if decoded or encoded:
        piece = [
            f"for at in range(0, width, {BLOCK}):",
            f"    size = min({BLOCK}, width - at)",
            *indented([*piece, *(fetched if encoded else []), *encoded]),
        ]
    else:
        piece = ["at, size = 0, width", *piece]
    line = [
        *(f"t{e.index} = np.{compute}(kept_rows[{program.position(e)}, row])" for e in leaves[Level.ROW]),
        *(f"row_sum{e.index} = 0.0" for e in to_row),
        *piece,
        *(f"kept_rows[{program.position(e)}, row] = row_sum{e.index}" for e in to_row),
        "start += width",
    ]
    if program.has_rows:
        line.append("row += 1")
    return [*lines, "for _ in range(lines):", *indented(line), *of_tensor]


def _pairs(
    phase: str,
    views: Sequence[_View],
    sizes: Sequence[str],
    shared: Sequence[str],
    added: Sequence[str],
    *,
    whole: bool,
) -> list[str]:
    """A piece, two numbers at a time, but for the rest that `at` and `size` then are: the last of an odd number, or all
    where a word would hold the end of a row and the begin of the next, or two that are not the `whole` pair that has
    one hash."""
    words = [f"word{position}" for position in range(len(views))]
    in_words = {"size": "pairs", "width": "width // 2"}
    call = f"{phase}{IN_PAIRS}({', '.join([*words, *(in_words.get(size, size) for size in sizes), *shared])})"
    parted = ["width % 2"] * ("width" in sizes) + ["(origin + start + at) % 2"] * whole
    return [
        f"pairs = 0 if {' or '.join(parted)} else size // 2" if parted else "pairs = size // 2",
        *(
            f"{word} = numba.carray(uint32_at({base} + {dtype.itemsize} * ({place} + at)), pairs)"
            for word, (_, dtype, base, place) in zip(words, views, strict=True)
        ),
        "if pairs:",
        f"    totals = {call}" if added else f"    {call}",
        *indented(list(added)),
        "at, size = at + 2 * pairs, size - 2 * pairs",
    ]


def _blocks(program: Program, phase: Phase, codecs: Mapping[str, Codec]) -> tuple[list[str], list[str]]:
    """What comes before a phase, for a block, and what comes after it."""
    before: list[str] = []
    after: list[str] = []
    blocks, stored = (in_blocks(names, codecs) for names in (numbers_of(phase), stored_by(phase)))
    if blocks and draws(phase, codecs):
        before.append("draw(low, high, np.uint32(origin + start + at), hashes, size)")
        before += [
            f"multiply(hashes, np.uint32({factor(name, codecs)}), {array(name)}_product, size)"
            for name in stored_by(phase)
            if _has_product(name, codecs)
        ]
    if not all(codecs[name].draws for name in stored):
        before.append("halve_elements(halves, size)")
    for name in blocks:
        (codes, _), (scales, _) = arrays_of(name, program, codecs)
        known, codec = array(name), codecs[name]
        before += [
            f"{known}_codes = table[{codes}, owner] + (start + at) * {code_bits(codec)} // 8",
            f"{known}_scale = table[{scales}, owner] + (start + at) // {codec.block} * 4",
        ]
        if passed(name, phase, codecs):
            before.append(f"{known} = numba.carray(float32_at({known}_numbers), size)")
        if name in phase.loads:
            before.append(f"{known}_share = share_{kind(codec)}({known}_scale)")
            if name not in read_as_codes(phase, codecs):
                before.append(f"decode_{kind(codec)}({known}_codes, {known}_share, {known}_numbers)")
        if name in stored:
            largest = f"totals[{len(returned(phase)) + stored.index(name)}]"
            ends = f"{known}_codes, {known}_scale, {_bits(name, codecs)}, {codec.draws}, size"
            after.append(f"encode_{kind(codec)}({known}_numbers, {largest}, {ends})")
    return before, after


def _has_product(name: str, codecs: Mapping[str, Codec]) -> bool:
    """Whether a number's random bits are not those of the hashes themselves."""
    return codecs[name].draws and int(factor(name, codecs), 16) != 1


def _bits(name: str, codecs: Mapping[str, Codec]) -> str:
    """The address of a number's random bits for a block: a block may begin with the second element of a pair."""
    if not codecs[name].draws:
        return "halves"
    product = f"{array(name)}_product" if _has_product(name, codecs) else "hashes"
    return f"{product} + 2 * ((origin + start + at) % 2)"
