"""The phases of a program as Numba source: functions that work the rule's maths out over a piece of a tensor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch

from stepwell.algebra.tracing import Expression, Level
from stepwell.codecs import Codec
from stepwell.engines.fused.arrays import arrays_of, code_bits, draws, factor, in_blocks, numbers_of
from stepwell.engines.fused.codec_words import PLAIN, WORDS
from stepwell.engines.fused.numba_words import CARRYING, FUNCTIONS, array, constant, indented, kind
from stepwell.engines.fused.program import Phase, Program
from stepwell.engines.fused.source import Writer

# Every element is worked out as written, so that it has the same bits wherever a tensor is cut; only sums (`add_up`)
# are taken in another order.
_JIT = '@numba.njit(error_model="numpy", nogil=True)\n'
IN_PAIRS = "_in_pairs"
# How many numbers are worked out in one loop, and how far ahead of them memory is asked for: measured. Loops that only
# read, or add up what they work out in pairs, are longer: LLVM unrolls short ones before it fills vector registers.
_RUN, _LONG_RUN, _AHEAD = 64, 128, 768


def phase_source(
    program: Program, number: int, phase: Phase, codecs: Mapping[str, Codec], compute: str, *, pairs: bool = False
) -> str:
    """One phase over a chunk of a tensor, or a piece of one: the rule's maths, element by element.

    In `pairs` an array's items are words of 32 bits, each of which holds two numbers of 16.
    """
    scalars = {node.index: f"c{index}" for index, node in enumerate(program.scalars)}
    in_rows = works_in_rows(phase, codecs)
    single = {node.index: f"t{node.index}" for node in phase.leaves if node.level is not Level.COLUMN}
    each_row = {node.index: f"t{node.index}" for node in phase.leaves if in_rows and node.level is Level.ROW}
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
    blocks = in_blocks(numbers_of(phase), codecs)
    held = {name: [array(part) for part in passed(name, phase, codecs)] for name in numbers_of(phase)}
    arguments = [part for parts in held.values() for part in parts]
    arguments += [*by_column.values(), *(f"q{r.index}" for r in to_column), *sizes_of(phase, codecs), "c"]
    if random := draws(phase, codecs) and not blocks:
        arguments += ["low", "high", "first"]
    arguments += [f"{array(name)}_bits" for name in drawn_before(phase, codecs)]
    for name in read_as_codes(phase, codecs):
        arguments += [f"{array(name)}_codes", f"{array(name)}_share"]
    sums = returned(phase)
    largest = [f"largest_{array(name)}" for name in in_blocks(stored_by(phase), codecs)]

    def element(place: str, item: str, kept: Callable[[str], str]) -> list[str]:
        """One element: its place, how it is taken out of an array, and where what is stored in one is kept."""
        lines = [f"{array(name)}_ = {_read(codecs, name, phase, item)}" for name in phase.loads]
        lines += [f"{name}_ = {name}[i]" for name in by_column.values()]
        lines += writer.lines
        for name, e in phase.stores:
            drawn = (
                f"random_bits(hashed, {factor(name, codecs)}, {place})"
                if random
                else f"np.uint32({array(name)}_bits[i])"
            )
            words = {"x": writer.text(e), "random": drawn}
            written = PLAIN.write if name in blocks else WORDS[codecs[name].word].write
            for part, text in zip(held[name], written, strict=True):
                lines.append(f"{kept(part)} = {text.format(**words)}")
            if name in blocks:
                lines.append(f"largest_{array(name)} = larger(largest_{array(name)}, {words['x']})")
        lines += [f"q{r.index}[i] += {writer.text(r.arguments[0])}" for r in to_column]
        for r in sums:
            (x,), total = r.arguments, f"total{r.index}"
            if x.operation == "mul" and all(a.level is Level.ELEMENT for a in x.arguments):
                lines.append(f"{total} = add_up_product({', '.join([total, *map(writer.text, x.arguments)])})")
            else:
                lines.append(f"{total} = add_up({total}, {writer.text(x)})")
        return lines

    if pairs:
        stored = [part for name, _ in phase.stores for part in held[name]]
        hashed = ["hashed = hash_of(low, high, np.uint32(first + np.uint32(np.uint32(i) << np.uint32(1))))"]
        body = element("np.uint32(0)", "lower_of({}[i])", lambda part: f"lower{stored.index(part)}")
        body += element("np.uint32(1)", "upper_of({}[i])", lambda part: f"upper{stored.index(part)}")
        body += [f"{part}[i] = pair_of(lower{number}, upper{number})" for number, part in enumerate(stored)]
    else:
        hashed = ["place = np.uint32(first + np.uint32(i))", "hashed = hash_of(low, high, place)"]
        body = element("place", "{}[i]", "{}[i]".format)
    body = [*(hashed if random else []), *body]
    used = {a.index for e in (*phase.values, *results) for a in e.arguments}
    arguments += [name for index, name in single.items() if index not in each_row]
    zeros = [f"total{r.index} = np.{compute}(0.0)" for r in sums]
    if not blocks:
        # What a run adds up in the numbers computed with, which fill a vector, is added up in float64.
        to_row = {r.index for r in sums if in_rows and r.level is Level.ROW}
        found = [f"sum{r.index}" for r in sums if r.index not in to_row]
        before = [*(f"{name} = np.{compute}(r{index}[row])" for index, name in each_row.items()), *zeros]
        after = [f"{f'r{r.index}[row]' if r.index in to_row else f'sum{r.index}'} += total{r.index}" for r in sums]
        run = _RUN if phase.stores and not (pairs and sums) else _LONG_RUN
        item_bytes = [part.dtype.itemsize << pairs for name in held for _, part in arrays_of(name, program, codecs)]
        parts = dict(zip((part for parts in held.values() for part in parts), item_bytes, strict=True))
        # A row is followed by the next, or by memory that it does no harm to ask for.
        end = None if _by_column(phase) else "lines * width" if in_rows else "size"
        ahead = _asked_for(parts, run >> pairs, _AHEAD >> pairs, end)
        loop = [f"{name} = 0.0" for name in found]
        loop += _in_runs(ahead, before, body, after, run >> pairs, in_rows=in_rows)
    else:
        found = [*(f"total{r.index}" for r in sums), *largest]
        loop = [*zeros, *(f"{name} = least()" for name in largest), "for i in range(size):", *indented(body)]
    lines = [
        f"def phase{number}{IN_PAIRS * pairs}({', '.join(arguments)}):",
        *(f"    c{i} = np.{compute}(c[{i}])  # {e!r}" for i, e in enumerate(program.scalars) if e.index in used),
        "    widest_vectors()",
        *indented(loop),
        *([f"    return {', '.join(found)},"] if found else []),
    ]
    return _JIT + "\n".join(lines)


def _asked_for(parts: Mapping[str, int], run: int, ahead: int, end: str | None) -> list[str]:
    """Ask for the memory of a later run, unless that begins behind the `end`. `parts` are the arrays, with the bytes of
    an item of each.

    Of memory that is read in order a core asks by itself for what comes next, but has less under way than it could.
    """
    asked = [f"fetch(place_of({part}, at + {ahead}), {item_bytes * run})" for part, item_bytes in parts.items()]
    return asked if end is None or not asked else [f"if at + {ahead} < {end}:", *indented(asked)]


def _in_runs(
    ahead: list[str], before: list[str], body: list[str], after: list[str], run: int, *, in_rows: bool
) -> list[str]:
    """The loop over all items, run by run, and over what is left; where rows count, row by row.

    The index is unsigned: else every access asks whether it counts from the end, and no vector register is filled.
    """

    def over(first: str, end: str) -> list[str]:
        return [*before, f"for i in range(np.uint64({first}), np.uint64({end})):", *indented(body), *after]

    first, end, width = ("row * width", "(row + 1) * width", "width") if in_rows else ("0", "size", "size")
    whole = f"{end} - {width} % {run}"
    loop = [
        f"for at in range({first}, {whole}, {run}):",
        *indented([*ahead, *over("at", f"at + {run}")]),
        *over(whole, end),
    ]
    return ["for row in range(lines):", *indented(loop)] if in_rows else loop


def takes_whole(phase: Phase, codecs: Mapping[str, Codec]) -> bool:
    """Whether a phase goes over a whole chunk. Not where numbers lie in blocks or are looked up by their column."""
    return not in_blocks(numbers_of(phase), codecs) and not _by_column(phase)


def works_in_rows(phase: Phase, codecs: Mapping[str, Codec]) -> bool:
    """Whether such a phase asks in which row of its chunk it is."""
    return bool(rows_of(phase)) and takes_whole(phase, codecs)


def rows_of(phase: Phase) -> list[Expression]:
    """What a phase reads, or adds up, for each row."""
    return [e for e in (*phase.leaves, *phase.reductions) if e.level is Level.ROW]


def sizes_of(phase: Phase, codecs: Mapping[str, Codec]) -> list[str]:
    """The arguments of a phase that say over how much it goes, after what it reads or adds up for each row of that."""
    if works_in_rows(phase, codecs):
        return [*(f"r{e.index}" for e in rows_of(phase)), "lines", "width"]
    return ["size"]


def _by_column(phase: Phase) -> bool:
    return any(e.level is Level.COLUMN for e in (*phase.leaves, *phase.reductions))


def works_in_pairs(program: Program, phase: Phase, codecs: Mapping[str, Codec]) -> bool:
    """Whether a phase takes two numbers at a time out of each array, as one word.

    It can where all its arrays hold bfloat16, or what belongs to it: a number of 32 bits is then made of either half of
    a word by one instruction, and two halves by two, where half a register of numbers of 16 bits asks for more.
    """
    known = [part for name in numbers_of(phase) for _, part in arrays_of(name, program, codecs)]
    return (
        sys.byteorder == "little"
        and all(codecs[name].word in CARRYING for name in numbers_of(phase))
        and all(part.dtype in (torch.bfloat16, torch.int16) for part in known)
        and not _by_column(phase)
    )


def returned(phase: Phase) -> list[Expression]:
    """The sums over a piece of a tensor: for the tensor, and for the row that it lies in."""
    return [*phase.reductions_to(Level.TENSOR), *phase.reductions_to(Level.ROW)]


def drawn_before(phase: Phase, codecs: Mapping[str, Codec]) -> list[str]:
    """The numbers whose random bits a phase's loop finds in arrays: where it goes over blocks, they are drawn for one
    block at a time."""
    by_block = bool(in_blocks(numbers_of(phase), codecs))
    return [name for name in stored_by(phase) if by_block and codecs[name].block == 1 and codecs[name].draws]


def stored_by(phase: Phase) -> list[str]:
    """The numbers that a phase stores, in their order."""
    return [name for name, _ in phase.stores]


def read_as_codes(phase: Phase, codecs: Mapping[str, Codec]) -> list[str]:
    """The numbers whose codes a phase's loop reads: those of a byte each. Where two share one, they are decoded first,
    because they do not stand side by side."""
    return [name for name in in_blocks(phase.loads, codecs) if code_bits(codecs[name]) == 8]


def passed(name: str, phase: Phase, codecs: Mapping[str, Codec]) -> tuple[str, ...]:
    """The arrays of numbers, or of their parts, that a phase works on for a number of the program."""
    if codecs[name].block == 1:
        return codecs[name].names(name)
    return (name,) if name in stored_by(phase) or name not in read_as_codes(phase, codecs) else ()


def _read(codecs: Mapping[str, Codec], name: str, phase: Phase, item: str) -> str:
    """A number, loaded from its parts."""
    known = array(name)
    if name in read_as_codes(phase, codecs):
        word, text = "float32", f"number_{kind(codecs[name])}(np.uint32({known}_codes[i]), {known}_share)"
    else:
        word = "float32" if codecs[name].block > 1 else codecs[name].word
        text = WORDS[word].read.format(*(item.format(array(part)) for part in passed(name, phase, codecs)))
    carries = any(codec.word in CARRYING for codec in codecs.values())
    return f"quiet({text})" if carries and word in ("float32", "float16") else text
