"""A program as Triton source: a kernel for each phase over the elements, and one for each finish between them."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.algebra.tracing import Expression, Level
from stepwell.codecs import Codec, Plain
from stepwell.engines.fused.arrays import table_width
from stepwell.engines.fused.program import Phase, Program
from stepwell.engines.fused.triton_finish import finish
from stepwell.engines.fused.triton_scalars import STEP, scalars
from stepwell.engines.fused.triton_storage import Storing
from stepwell.engines.fused.triton_words import BLOCK, CHUNK, TILE, WORD, Maths, array, indented

# What is known of the fields of a chunk, so that numbers are moved in whole words, and counted in 32 bits.
_LOADED = {"start": f"tl.multiple_of({{}}, {WORD})", "size": "{}.to(tl.int32)", "columns": "tl.multiple_of({}, ALIGN)"}

_HEADER = '''"""{name}, for {stored}.

Written by stepwell from the trace of the rule. Each kernel is launched once for all tensors. `table` has a row for each
tensor: which row of `scalars` it uses, the addresses of its arrays, and the key of its random bits. `verdict` holds
what the gradients are multiplied with, and whether this step is left out.
"""

import triton
import triton.language as tl

from stepwell.engines.fused.triton_memory import from_bfloat16, from_float16, power, to_bfloat16, to_float16{codecs}
'''
_OF_CODECS = "\nfrom stepwell.engines.fused.triton_codecs import *"


def write(program: Program, codecs: Mapping[str, Codec], compute: str) -> str:
    """The source of a module that has a kernel for every step of the program, `phase0`, `finish1`, …, and `scalars`.

    Args:
        program: what to write.
        codecs: how each number is stored, by name. Their order is the order of the random bits.
        compute: the dtype of the arithmetic on elements: "float64" or "float32".
    """
    described = ", ".join(f"{name} {codecs[name].word}" for name in program.arrays)
    plain = all(isinstance(codecs[name], Plain) for name in program.arrays)
    parts = [_HEADER.format(name=program.name, stored=described, codecs="" if plain else _OF_CODECS)]
    for number, step in program.steps:
        if isinstance(step, Phase):
            parts.append(_phase(program, number // 2, step, codecs, compute))
        else:
            parts.append(finish(program, number // 2, step, codecs, compute))
    parts.append(scalars(program))
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _phase(program: Program, number: int, phase: Phase, codecs: Mapping[str, Codec], compute: str) -> str:
    """One phase: the rule's maths on some elements, and the kernel that goes through a chunk of them."""
    storing = Storing(program, phase, codecs, compute)
    width = table_width(program, codecs)
    return (
        _elements(program, number, phase, storing, compute)
        + "\n\n\n"
        + _chunk(program, number, phase, storing, width, compute)
    )


def _used_scalars(program: Program, phase: Phase) -> list[tuple[int, Expression]]:
    """The scalars that the phase asks for, with their positions."""
    roots = [*(e for _, e in phase.stores), *(r.arguments[0] for r in phase.reductions)]
    used = {a.index for e in (*phase.values, *phase.reductions) for a in e.arguments} | {e.index for e in roots}
    return [(position, node) for position, node in enumerate(program.scalars) if node.index in used]


def _elements(program: Program, number: int, phase: Phase, storing: Storing, compute: str) -> str:
    """The rule's maths on the elements at `i`, where `inside` holds."""
    scalar_names = {node.index: f"c{position}" for position, node in enumerate(program.scalars)}
    leaf_names = {node.index: f"t{node.index}" for node in phase.leaves}

    def leaf(node: Expression) -> str | None:
        if node in phase.already_stored:
            return f"{array(phase.already_stored[node])}_"
        if node.operation == "load" and node.level is Level.ELEMENT:
            return f"{array(node.value)}_"
        return scalar_names.get(node.index) or leaf_names.get(node.index)

    maths = Maths(compute, leaf, "x")
    maths.write(phase.values, [*(e for _, e in phase.stores), *(r.arguments[0] for r in phase.reductions)])
    new = dict(phase.stores)
    stores = storing.stores(lambda name: maths.text(new[name]))
    added = [
        f"acc{r.index} += tl.where(inside, {maths.text(r.arguments[0])}, {maths.constant(0.0)})"
        for r in phase.reductions
    ]
    sums = [f"acc{r.index}" for r in phase.reductions]
    arguments = [
        *storing.arguments,
        *(f"c{position}" for position, _ in _used_scalars(program, phase)),
        *leaf_names.values(),
        *sums,
    ]
    body = [*maths.constant_lines, *storing.loads(), *maths.lines, *stores, *added]
    if sums:
        body.append(f"return {', '.join(sums)}")
    return "\n".join(
        ["@triton.jit", f"def elements{number}({', '.join(['i', 'inside', *arguments])}):", *indented(body)]
    )


def _chunk(program: Program, number: int, phase: Phase, storing: Storing, width: int, compute: str) -> str:
    """The kernel of a phase: each of its programs goes through one chunk."""
    in_tiles = program.has_rows
    fields = TILE if in_tiles else CHUNK
    arguments = ["chunks", "table", "verdict"]
    used = _used_scalars(program, phase)
    lines = [
        "if tl.load(verdict + 1) != 0:",
        "    return",
        f"chunk = chunks + tl.program_id(0).to(tl.int64) * {len(fields)}",
        *(
            f"{field} = {_LOADED.get(field, '{}').format(f'tl.load(chunk + {place})')}"
            for place, field in enumerate(fields)
        ),
        f"here = table + owner * {width}",
        *storing.pointers(lambda place: f"tl.load(here + {1 + place})", in_tiles=in_tiles),
    ]
    if used or storing.draws:
        arguments.append("scalars")
        lines.append(f"first = scalars + tl.load(here) * {len(program.scalars)}")
        lines += [f"c{position} = {_scalar(position, node, compute)}" for position, node in used]
    if storing.draws:
        step = [str(node.value) for node in program.scalars].index(STEP)
        lines.append(f"low, high = keys_at(tl.load(here + {width - 1}), tl.load(first + {step}))")
        begins = f"tl.load(here + {width - 2}).to(tl.uint32)"
        lines.append(f"origin = {begins if in_tiles else f'{begins} + start.to(tl.uint32)'}")
    leaves = {level: [e for e in phase.leaves if e.level is level] for level in program.kept}
    if leaves[Level.TENSOR]:
        arguments.append("kept")
        width = len(program.kept[Level.TENSOR])
        lines += [
            f"t{e.index} = tl.load(kept + owner * {width} + {program.position(e)}).to(tl.{compute})"
            for e in leaves[Level.TENSOR]
        ]
    to_tensor, to_row, to_column = map(phase.reductions_to, (Level.TENSOR, Level.ROW, Level.COLUMN))
    arguments += ["sums"] if to_tensor else []
    arguments += ["kept_rows"] if leaves[Level.ROW] else []
    arguments += ["kept_columns"] if leaves[Level.COLUMN] else []
    arguments += ["row_sums"] if to_row else []
    arguments += ["column_sums"] if to_column else []
    lines += (_tile if in_tiles else _run)(program, number, phase, storing, compute)
    constexprs = ["ALIGN: tl.constexpr"] + (["ROWS: tl.constexpr", "COLUMNS: tl.constexpr"] if in_tiles else [])
    return "\n".join(["@triton.jit", f"def phase{number}({', '.join([*arguments, *constexprs])}):", *indented(lines)])


def _scalar(position: int, node: Expression, compute: str) -> str:
    """A scalar in the dtype that is computed with. The gradients' factor is the host's part and the verdict's."""
    text = f"tl.load(first + {position})"
    if node.value == "gradient_factor":
        text = f"({text} * tl.load(verdict))"
    described = "" if node.operation == "constant" else f"  # {node!r}"
    return f"{text}.to(tl.{compute}){described}"


def _call(program: Program, number: int, phase: Phase, storing: Storing, sums: list[str]) -> str:
    """The call of the rule's maths, which gives back what has been added up."""
    arguments = [
        "i",
        "inside",
        *storing.arguments,
        *(f"c{position}" for position, _ in _used_scalars(program, phase)),
        *(f"t{node.index}" for node in phase.leaves),
        *sums,
    ]
    text = f"elements{number}({', '.join(arguments)})"
    return f"{', '.join(sums)} = {text}" if sums else text


def _run(program: Program, number: int, phase: Phase, storing: Storing, compute: str) -> list[str]:
    """A chunk of elements that lie in a run: most of it in whole words, and what remains. What is stored in blocks goes
    through them all together."""
    unit = BLOCK if storing.has_blocks else WORD
    accumulators = [f"acc{r.index}" for r in phase.reductions]
    rest = [f"rest{r.index}" for r in phase.reductions]
    width = max(1, len(program.sums))
    return [
        f"whole = size // {unit} * {unit}",
        *(f"{acc} = tl.zeros([{BLOCK}], tl.{compute})" for acc in accumulators),
        f"for at in range(0, whole, {BLOCK}):",
        f"    i = at + tl.arange(0, {BLOCK})",
        "    inside = i < whole",
        *indented(storing.blocks_in_a_run("at", "whole")),
        f"    {_call(program, number, phase, storing, accumulators)}",
        *(f"{each} = tl.zeros([{unit}], tl.{compute})" for each in rest),
        "if whole < size:",
        f"    i = whole + tl.arange(0, {unit})",
        "    inside = i < size",
        *indented(storing.blocks_in_a_run("whole", "size")),
        f"    {_call(program, number, phase, storing, rest)}",
        *(
            f"tl.store(sums + tl.program_id(0) * {width} + {program.sum_position(r)}, "
            f"tl.sum(acc{r.index}.to(tl.float64)) + tl.sum(rest{r.index}.to(tl.float64)))"
            for r in phase.reductions
        ),
    ]


def _tile(program: Program, number: int, phase: Phase, storing: Storing, compute: str) -> list[str]:
    """A chunk of some rows, and as many of their columns as a tile is wide: tile below tile."""
    to_tensor, to_row, to_column = map(phase.reductions_to, (Level.TENSOR, Level.ROW, Level.COLUMN))
    rows, columns = ([e for e in phase.leaves if e.level is level] for level in (Level.ROW, Level.COLUMN))
    kept = {level: len(program.kept[level]) for level in program.kept}
    row_width, column_width = len(program.row_sums), len(program.column_sums)
    return [
        "across = tl.multiple_of(at, COLUMNS) + tl.arange(0, COLUMNS)[None, :]",
        *(
            f"t{e.index} = tl.load(kept_columns + (column + tl.arange(0, COLUMNS)) * {kept[Level.COLUMN]} + "
            f"{program.position(e)}, at + tl.arange(0, COLUMNS) < columns, 0)[None, :]"
            for e in columns
        ),
        *(f"acc{e.index} = tl.zeros([ROWS, COLUMNS], tl.{compute})" for e in (*to_tensor, *to_column)),
        "for lane in range(0, lines, ROWS):",
        "    down = lane + tl.arange(0, ROWS)",
        "    i = (line + down)[:, None] * columns + across",
        "    inside = (down < lines)[:, None] & (across < columns)",
        *indented(storing.blocks_in_a_tile()),
        *(
            f"    t{e.index} = tl.load(kept_rows + (row + down) * {kept[Level.ROW]} + {program.position(e)}, "
            "down < lines, 0)[:, None]"
            for e in rows
        ),
        *(f"    acc{e.index} = tl.zeros([ROWS, COLUMNS], tl.{compute})" for e in to_row),
        f"    {_call(program, number, phase, storing, [f'acc{r.index}' for r in phase.reductions])}",
        *(
            f"    tl.store(row_sums + (row_sum + down) * {row_width} + {program.sum_position(e)}, "
            f"tl.sum(acc{e.index}, axis=1), down < lines)"
            for e in to_row
        ),
        *(
            f"tl.store(column_sums + (column_sum + tl.arange(0, COLUMNS)) * {column_width} + "
            f"{program.sum_position(e)}, tl.sum(acc{e.index}, axis=0), at + tl.arange(0, COLUMNS) < columns)"
            for e in to_column
        ),
        *(
            f"tl.store(sums + tl.program_id(0) * {len(program.sums)} + {program.sum_position(e)}, "
            f"tl.sum(acc{e.index}.to(tl.float64)))"
            for e in to_tensor
        ),
    ]
