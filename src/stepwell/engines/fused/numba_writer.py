"""A program as Numba source: a loop over chunks of all tensors for each phase, and the rule's maths in each loop."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stepwell.algebra.tracing import Expression
from stepwell.engines.fused.program import Phase, Program
from stepwell.engines.fused.source import Writer

# How an array of each dtype stands in memory, and how its numbers become those that are computed with, and back.
_POINTERS = {"float64": "float64_at", "float32": "float32_at", "bfloat16": "uint16_at", "float16": "uint16_at"}
_READERS = {"float64": "{}", "float32": "{}", "bfloat16": "from_bfloat16({})", "float16": "from_float16({})"}
_WRITERS = {"float64": "{}", "float32": "{}", "bfloat16": "to_bfloat16({})", "float16": "to_float16({})"}
_FUNCTIONS = {
    "sqrt": "math.sqrt",
    "absolute": "abs",
    "exp": "math.exp",
    "log": "math.log",
    "cos": "math.cos",
    "floor": "math.floor",
}

_JIT = '@numba.njit(fastmath=FAST, error_model="numpy", nogil=True)\n'
_BLOCK = 1024

_HEADER = '''"""{name}, for {dtypes}.

Written by stepwell from the trace of the rule. `run` gets the address of a frame: a counter of the chunks taken, the
phase, the numbers of chunks, tensors and rows of scalars, and addresses. `table` holds the addresses of all tensors,
one row an array; a chunk is `sizes[i]` elements of tensor `owners[i]` from element `starts[i]` on; `rows` says which
row of `scalars` a tensor uses.
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
    """The source of a module whose `run` works one phase of the program out, given the frame of a
    `stepwell.engines.fused.engine.Launch`.

    Args:
        program: what to write.
        dtypes: the dtype of each array, by name: "float64", "float32", "bfloat16" or "float16".
    """
    compute = "float64" if "float64" in dtypes.values() else "float32"
    # A sum is spread over the lanes of a vector. Without sums every element is worked out as written, so that the
    # result has the same bits wherever a tensor is cut.
    fast = '{"nsz", "reassoc"}' if program.reductions else "False"
    described = ", ".join(f"{name} {dtypes[name]}" for name in program.arrays)
    parts = [_HEADER.format(name=program.name, dtypes=described, fast=fast)]
    parts += [_phase(program, number, phase, dtypes, compute) for number, phase in enumerate(program.phases)]
    parts.append(_driver(program, dtypes, compute))
    return "\n\n".join(parts)


def _arrays(phase: Phase) -> list[str]:
    stored = [name for name, _ in phase.stores]
    return [*phase.loads, *(name for name in stored if name not in phase.loads)]


def _phase(program: Program, number: int, phase: Phase, dtypes: Mapping[str, str], compute: str) -> str:
    """One phase over one chunk: the rule's maths, element by element."""
    scalars = {node.index: f"c{index}" for index, node in enumerate(program.scalars)}
    per_tensor = {node.index: f"t{node.index}" for node in _per_tensor_used(phase)}

    def leaf(node: Expression) -> str | None:
        if node in phase.already_stored:
            return f"{phase.already_stored[node]}_"
        if node.operation == "load":
            return f"{node.value}_"
        return scalars.get(node.index) or per_tensor.get(node.index)

    writer = Writer(_FUNCTIONS, lambda value: _constant(value, compute), leaf, "x")
    results = [*(e for _, e in phase.stores), *(r.arguments[0] for r in phase.reductions)]
    writer.write(phase.values, results)
    arguments = [*_arrays(phase), "size", "c", *per_tensor.values()]
    lines = [f"def phase{number}({', '.join(arguments)}):"]
    used = {a.index for e in (*phase.values, *results) for a in e.arguments}
    lines += [
        f"    c{index} = np.{compute}(c[{index}])  # {node!r}"
        for index, node in enumerate(program.scalars)
        if node.index in used
    ]
    totals = [program.position(r) for r in phase.reductions]
    body = [f"{name}_ = {_READERS[dtypes[name]].format(f'{name}[i]')}" for name in phase.loads]
    body += writer.lines
    body += [f"{name}[i] = {_WRITERS[dtypes[name]].format(writer.text(e))}" for name, e in phase.stores]
    body += [f"total{t} += {writer.text(r.arguments[0])}" for t, r in zip(totals, phase.reductions, strict=True)]
    lines += [f"    total{t} = np.{compute}(0.0)" for t in totals]
    lines += ["    for i in range(size):", *(f"        {line}" for line in body)]
    if totals:
        lines.append(f"    return {', '.join(f'total{t}' for t in totals)},")
    return _JIT + "\n".join(lines)


def _driver(program: Program, dtypes: Mapping[str, str], compute: str) -> str:
    """One phase over all chunks, by as many threads as call it: each takes the next chunk that nobody has taken."""
    arrays, scalars, reductions = len(program.arrays), len(program.scalars), max(1, len(program.reductions))
    lines = [
        "def run(address):",
        "    frame = numba.carray(address, 14)",
        "    phase, chunks, tensors, classes = frame[1], frame[2], frame[3], frame[4]",
        f"    table = numba.carray(int64_at(frame[5]), ({arrays}, tensors))",
        "    owners = numba.carray(int64_at(frame[6]), chunks)",
        "    starts = numba.carray(int64_at(frame[7]), chunks)",
        "    sizes = numba.carray(int64_at(frame[8]), chunks)",
        "    rows = numba.carray(int64_at(frame[9]), tensors)",
        f"    scalars = numba.carray(float64_at(frame[10]), (classes, {max(1, scalars)}))",
    ]
    if program.reductions:
        lines += [
            "    counts = numba.carray(float64_at(frame[11]), tensors)",
            f"    partials = numba.carray(float64_at(frame[12]), (chunks, {reductions}))",
            f"    reduced = numba.carray(float64_at(frame[13]), (tensors, {reductions}))",
        ]
    for number, phase in enumerate(program.phases):
        body = [
            "owner, start, size = owners[chunk], starts[chunk], sizes[chunk]",
            "row = rows[owner]",
            *_per_tensor_lines(program, phase),
        ]
        arguments = [*_arrays(phase), "size", "scalars[row]"]
        arguments += [f"np.{compute}(t{node.index})" for node in _per_tensor_used(phase)]
        call = f"phase{number}({', '.join(arguments)})"
        if phase.reductions:
            totals = [program.position(r) for r in phase.reductions]
            # A block is summed in the numbers computed with, which fill a vector; the blocks' sums add up in float64.
            body += [
                *(f"sum{t} = 0.0" for t in totals),
                "end = start + size",
                f"for start in range(start, end, {_BLOCK}):",
                f"    size = min({_BLOCK}, end - start)",
                *(f"    {line}" for line in _views(program, phase, dtypes)),
                f"    totals = {call}",
                *(f"    sum{t} += np.float64(totals[{index}])" for index, t in enumerate(totals)),
                *(f"partials[chunk, {t}] = sum{t}" for t in totals),
            ]
        else:
            body += [*_views(program, phase, dtypes), call]
        lines += [
            f"    if phase == {number}:",
            "        chunk = next_chunk(address)",
            "        while chunk < chunks:",
            *(f"            {line}" for line in body),
            "            chunk = next_chunk(address)",
        ]
    return "\n".join(lines) + "\n"


def _views(program: Program, phase: Phase, dtypes: Mapping[str, str]) -> list[str]:
    """The tensors' memory, from element `start` on, as arrays."""
    lines = []
    for name in _arrays(phase):
        pointer, itemsize = _POINTERS[dtypes[name]], {"float64": 8, "float32": 4}.get(dtypes[name], 2)
        address = f"table[{program.arrays.index(name)}, owner] + {itemsize} * start"
        lines.append(f"{name} = numba.carray({pointer}({address}), size)")
    return lines


def _per_tensor_used(phase: Phase) -> list[Expression]:
    """The per-tensor numbers that the elements use, once each, in order."""
    used = {a.index for e in phase.values for a in e.arguments}
    return [node for node in phase.per_tensor if node.index in used]


def _per_tensor_lines(program: Program, phase: Phase) -> list[str]:
    """What is worked out once a tensor, in float64."""
    scalars = {node.index: f"scalars[row, {index}]" for index, node in enumerate(program.scalars)}
    leaves = {
        node.index: "counts[owner]" if node.operation == "count" else f"reduced[owner, {program.position(node)}]"
        for node in phase.per_tensor
        if node.operation in ("count", "total")
    }

    def leaf(node: Expression) -> str | None:
        return scalars.get(node.index) or leaves.get(node.index)

    used = _per_tensor_used(phase)
    writer = Writer(_FUNCTIONS, lambda value: _constant(value, "float64"), leaf, "t")
    writer.write(phase.per_tensor, used)
    return writer.lines + [f"t{node.index} = {leaves[node.index]}" for node in used if node.index in leaves]


def _constant(value: float | bool, compute: str) -> str:
    if isinstance(value, bool):
        return repr(value)
    if not math.isfinite(value):
        return f"np.{compute}({'np.nan' if math.isnan(value) else 'np.inf' if value > 0 else '-np.inf'})"
    return f"np.{compute}({value!r})"
