"""What a program works out tensor by tensor, between its phases, as Triton source."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.algebra.tracing import Expression, Level
from stepwell.codecs import Codec
from stepwell.engines.fused.arrays import arrays_of, table_width
from stepwell.engines.fused.program import Finish, Loop, Program
from stepwell.engines.fused.triton_storage import POINTERS, read, written
from stepwell.engines.fused.triton_words import (
    LINES,
    TENSOR,
    Maths,
    array,
    indented,
)

# What is worked out between the phases is little, and is worked out in this.
_WIDE = "float64"
_LENGTHS = {Level.ROW: "rows", Level.COLUMN: "columns"}
_FIRST = {Level.ROW: "row", Level.COLUMN: "column"}
_KEPT = {Level.TENSOR: "kept", Level.ROW: "kept_rows", Level.COLUMN: "kept_columns"}
# Which memory holds the sums of the tiles beside (or below) each other, where a tensor's begin, and how many there are.
_SUMS = {Level.ROW: ("row_sums", "row_sum", "beside"), Level.COLUMN: ("column_sums", "column_sum", "below")}
# What one thread of a program has stored another may load after this.
_WAIT = "tl.debug_barrier()"


def finish(program: Program, number: int, step: Finish, codecs: Mapping[str, Codec], compute: str) -> str:
    """One tensor: first the sums over its chunks, always in the same order; then, in float64, what is made of them."""
    lines = [
        "if tl.load(verdict + 1) != 0:",
        "    return",
        "owner = tl.program_id(0).to(tl.int64)",
        f"here = table + owner * {table_width(program, codecs)}",
        *(f"{name} = tl.load(sizes + owner * {len(TENSOR)} + {place})" for place, name in enumerate(TENSOR)),
        f"lane = tl.arange(0, {LINES})",
    ]
    for e in step.sums:
        lines += _over_chunks(program, e) if e.level is Level.TENSOR else _over_tiles(program, e, compute)
    named = {e for e in step.sums if e.level is Level.TENSOR}
    for loop in step.loops:
        body = _Body(program, loop, named)
        lines += _once(body, codecs) if loop.level is Level.TENSOR else _each(body, codecs, compute)
        named |= {e for e in (*loop.values, *loop.totals) if e.level is Level.TENSOR}
    text = "\n".join(lines)
    memory = ["scalars", "sums", "kept", "row_sums", "kept_rows", "column_sums", "kept_columns"]
    arguments = ["sizes", "table", "verdict", *(name for name in memory if f"({name} + " in text)]
    return "\n".join(["@triton.jit", f"def finish{number}({', '.join(arguments)}):", *indented(lines)])


def _over_chunks(program: Program, e: Expression) -> list[str]:
    """One number a tensor: the sum over its chunks."""
    place = f"(first_chunk + at + lane) * {len(program.sums)} + {program.sum_position(e)}"
    lines = [
        f"sum{e.index} = tl.zeros([{LINES}], tl.float64)",
        f"for at in range(0, parts, {LINES}):",
        f"    sum{e.index} += tl.load(sums + {place}, at + lane < parts, 0)",
        f"t{e.index} = tl.sum(sum{e.index})",
    ]
    if program.keeps(e):
        lines.append(f"tl.store(kept + {_place(program, e)}, t{e.index})")
    return lines


def _over_tiles(program: Program, e: Expression, compute: str) -> list[str]:
    """One number a row: the sum over the tiles beside each other; or one a column: over those below."""
    memory, first, tiles = _SUMS[e.level]
    length, width = _LENGTHS[e.level], len(program.row_sums if e.level is Level.ROW else program.column_sums)
    place = f"({first} + part * {length} + at + lane) * {width} + {program.sum_position(e)}"
    return [
        f"for at in range(0, {length}, {LINES}):",
        f"    sum{e.index} = tl.zeros([{LINES}], tl.float64)",
        f"    for part in range(0, {tiles}):",
        f"        sum{e.index} += tl.load({memory} + {place}, at + lane < {length}, 0)",
        f"    tl.store({_KEPT[e.level]} + {_place(program, e)}, sum{e.index}.to(tl.{compute}), at + lane < {length})",
        _WAIT,
    ]


def _place(program: Program, e: Expression) -> str:
    """Where what is kept of this stands among what is kept of its level."""
    width, position = len(program.kept[e.level]), program.position(e)
    if e.level is Level.TENSOR:
        return f"owner * {width} + {position}"
    return f"({_FIRST[e.level]} + at + lane) * {width} + {position}"


class _Body:
    """The maths of one loop of a finish, and what it reads.

    `named` are the numbers a tensor that this finish has worked out before the loop.
    """

    def __init__(self, program: Program, loop: Loop, named: set[Expression]) -> None:
        self.program, self.loop = program, loop
        self.kept = [e for e in loop.values if program.keeps(e)]
        results = [*(e for _, e in loop.stores), *(t.arguments[0] for t in loop.totals), *self.kept]
        used = {a for e in loop.values for a in e.arguments} | set(results)
        self._mine = set(loop.values)
        # What stood in a slot before an earlier step, or loop, has written to it.
        self._former = {e for e in used if e.operation == "load" and e not in self._mine and program.keeps(e)}
        self.maths = Maths(_WIDE, self._leaf, "t")
        # What is worked out once may be asked for by a later part of this finish.
        self.maths.write(loop.values, loop.values if loop.level is Level.TENSOR else results)
        self.scalars = [
            f"c{position} = {_scalar(program, position, node)}"
            for position, node in enumerate(program.scalars)
            if node in used
        ]
        self.loads = sorted({(e.value, e.level) for e in used - self._former if e.operation == "load"})
        known = self._mine | named
        read = {e for e in used if e.level > Level.SCALAR and e not in known and e.operation not in ("load", "count")}
        # What an earlier step, or loop, has kept in memory.
        self.reads = sorted(read | self._former, key=lambda e: e.index)

    def _leaf(self, node: Expression) -> str | None:
        if node.level <= Level.SCALAR:
            known = {scalar.index: f"c{position}" for position, scalar in enumerate(self.program.scalars)}
            return known.get(node.index)
        if node.operation == "load" and node not in self._former:
            return f"{array(node.value)}_"
        if node.operation == "count":
            return f"{node.value}.to(tl.float64)"
        return None if node in self._mine else f"t{node.index}"


def _scalar(program: Program, position: int, node: Expression) -> str:
    text = f"tl.load(scalars + tl.load(here) * {len(program.scalars)} + {position})"
    return f"{text} * tl.load(verdict)" if node.value == "gradient_factor" else text


def _pointer(program: Program, name: str, codecs: Mapping[str, Codec]) -> str:
    ((place, part),) = arrays_of(name, program, codecs)  # what is no element's is one plain tensor
    return f"{array(name)} = tl.load(here + {1 + place}).to(tl.pointer_type({POINTERS[part.dtype]}))"


def _before(body: _Body, codecs: Mapping[str, Codec]) -> list[str]:
    """What a loop needs and has once a tensor."""
    program = body.program
    names = sorted({name for name, _ in (*body.loads, *body.loop.stores)})
    return [
        *(_pointer(program, name, codecs) for name in names),
        *body.scalars,
        *body.maths.constant_lines,
        *(_read(name, codecs) for name, level in body.loads if level is Level.TENSOR),
        *(_kept(program, e) for e in body.reads if e.level is Level.TENSOR),
    ]


def _read(name: str, codecs: Mapping[str, Codec], place: str = "") -> str:
    """A number of an array, in float64."""
    return f"{array(name)}_ = {read(codecs[name], [f'tl.load({array(name)}{place})'], _WIDE)}"


def _kept(program: Program, e: Expression, mask: str = "") -> str:
    """A number that has been kept, in float64."""
    return f"t{e.index} = tl.load({_KEPT[e.level]} + {_place(program, e)}{mask}).to(tl.float64)"


def _once(body: _Body, codecs: Mapping[str, Codec]) -> list[str]:
    """What a part of a finish works out once."""
    return [
        *_before(body, codecs),
        *body.maths.lines,
        *(f"tl.store(kept + {_place(body.program, e)}, {body.maths.text(e)})" for e in body.kept),
        *(
            f"tl.store({array(name)}, {written(codecs[name], body.maths.text(e), _WIDE)[0]})"
            for name, e in body.loop.stores
        ),
    ]


def _each(body: _Body, codecs: Mapping[str, Codec], compute: str) -> list[str]:
    """What a part of a finish works out for each row, or for each column, many at a time."""
    program, loop, text = body.program, body.loop, body.maths.text
    length, kept, mask = _LENGTHS[loop.level], _KEPT[loop.level], ", inside, 0"
    inner = [
        f"inside = at + lane < {length}",
        *(_read(name, codecs, f" + at + lane{mask}") for name, level in body.loads if level is not Level.TENSOR),
        *(_kept(program, e, mask) for e in body.reads if e.level is not Level.TENSOR),
        *body.maths.lines,
        *(f"tl.store({kept} + {_place(program, e)}, {text(e)}.to(tl.{compute}), inside)" for e in body.kept),
        *(
            f"tl.store({array(name)} + at + lane, {written(codecs[name], text(e), _WIDE)[0]}, inside)"
            for name, e in loop.stores
        ),
        *(f"sum{t.index} += tl.where(inside, {text(t.arguments[0])}, 0.0)" for t in loop.totals),
    ]
    return [
        *_before(body, codecs),
        *(f"sum{t.index} = tl.zeros([{LINES}], tl.float64)" for t in loop.totals),
        f"for at in range(0, {length}, {LINES}):",
        *indented(inner),
        _WAIT,
        *(f"t{t.index} = tl.sum(sum{t.index})" for t in loop.totals),
    ]
