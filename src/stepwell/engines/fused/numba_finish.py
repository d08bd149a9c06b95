"""What a program works out tensor by tensor, between its phases, as Numba source."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.algebra.tracing import Expression, Level
from stepwell.codecs import Codec
from stepwell.engines.fused.arrays import arrays_of
from stepwell.engines.fused.codec_words import WORDS
from stepwell.engines.fused.numba_words import FUNCTIONS, POINTERS, TENSOR, array, constant, indented
from stepwell.engines.fused.program import Finish, Loop, Program
from stepwell.engines.fused.source import Writer

_LENGTHS = {Level.TENSOR: "1", Level.ROW: "rows", Level.COLUMN: "columns"}
_KEPT = {
    Level.TENSOR: "kept[item, {}]",
    Level.ROW: "kept_rows[{}, row + i]",
    Level.COLUMN: "kept_columns[{}, column + i]",
}


def finish(program: Program, step: Finish, codecs: Mapping[str, Codec]) -> list[str]:
    """One tensor: first the sums over its chunks, in their order, so that the bits are the same whatever the threads;
    then, in float64, what is made of them."""
    lines = [f"{name} = sizes[item, {position}]" for position, name in enumerate(TENSOR)]
    for e in step.sums:
        if e.level is Level.TENSOR:
            lines += [
                f"t{e.index} = 0.0",
                "for part in range(first_chunk, first_chunk + parts):",
                f"    t{e.index} += sums[part, {program.sum_position(e)}]",
            ]
            if program.keeps(e):
                lines.append(f"{_kept(program, e)} = t{e.index}")
        elif e.level is Level.COLUMN:
            lines += [
                "for i in range(columns):",
                f"    {_kept(program, e)} = 0.0",
                "for part in range(parts):",
                "    for i in range(columns):",
                f"        {_kept(program, e)} += "
                f"column_sums[{program.sum_position(e)}, column_sum + part * columns + i]",
            ]
    for loop in step.loops:
        lines += _loop(program, loop, codecs)
    return lines


def _kept(program: Program, e: Expression) -> str:
    return _KEPT[e.level].format(program.position(e))


def _loop(program: Program, loop: Loop, codecs: Mapping[str, Codec]) -> list[str]:
    """What a part of a finish works out: once, or for each row, or for each column."""
    scalars = {node.index: f"scalars[classes[item], {index}]" for index, node in enumerate(program.scalars)}
    mine = set(loop.values)

    def leaf(node: Expression) -> str | None:
        if node.level <= Level.SCALAR:
            return scalars.get(node.index)
        if node.operation == "load" and (node in mine or not program.keeps(node)):
            return f"{array(node.value)}_"
        if node.operation == "count":
            return f"np.float64({node.value})"
        if node in mine:
            return None
        return _kept(program, node) if program.keeps(node) else f"t{node.index}"

    kept = [e for e in loop.values if program.keeps(e)]
    results = [*(e for _, e in loop.stores), *(t.arguments[0] for t in loop.totals), *kept]
    writer = Writer(FUNCTIONS, lambda value: constant(value, "float64"), leaf, "t")
    # What is worked out once may be asked for by a later part of this finish.
    writer.write(loop.values, loop.values if loop.level is Level.TENSOR else results)
    body = writer.lines + [f"{_kept(program, e)} = {writer.text(e)}" for e in kept]
    for name, e in loop.stores:
        (written,) = WORDS[codecs[name].word].write  # what is no element's is one plain tensor
        body.append(f"{array(name)}[i] = {written.format(x=writer.text(e))}")
    body += [f"t{t.index} += {writer.text(t.arguments[0])}" for t in loop.totals]

    used = {a for e in loop.values for a in e.arguments} | set(results)
    loads = {e.value: e.level for e in used if e.operation == "load" and (e in mine or not program.keeps(e))}
    views = []
    for name in sorted({*loads, *(name for name, _ in loop.stores)}):
        ((row, part),) = arrays_of(name, program, codecs)
        length = _LENGTHS[program.levels[name]]
        views.append(f"{array(name)} = numba.carray({POINTERS[part.dtype]}(table[{row}, item]), {length})")
    read = {
        name: f"{array(name)}_ = {WORDS[codecs[name].word].read.format(f'{array(name)}[i]')}" for name in sorted(loads)
    }
    once = [read[name] for name in read if loads[name] is Level.TENSOR]
    if loop.level is Level.TENSOR:
        return [*views, "i = 0", *once, *body]
    each = [read[name] for name in read if loads[name] is not Level.TENSOR]
    return [
        *views,
        "i = 0",
        *once,
        *(f"t{t.index} = 0.0" for t in loop.totals),
        f"for i in range({_LENGTHS[loop.level]}):",
        *indented([*each, *body]),
    ]
