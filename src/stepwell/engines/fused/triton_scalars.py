"""A program's scalars as a Triton kernel: for steps that the device counts by itself, as under a CUDA graph."""

from __future__ import annotations

import dataclasses

from stepwell.algebra.tracing import Expression
from stepwell.engines.fused.program import Program
from stepwell.engines.fused.source import scalar_nodes
from stepwell.engines.fused.triton_words import Maths, indented

# The symbol of the number of an update.
STEP = "s.step"


def with_step(program: Program) -> Program:
    """The program with the step among its scalars: what is rounded by chance depends on it."""
    if any(node.value == STEP for node in program.scalars):
        return program
    return dataclasses.replace(program, scalars=(*program.scalars, _step_of(program)))


def _step_of(program: Program) -> Expression:
    value = next(e for phase in program.phases for _, e in phase.stores)
    return value.graph.symbol(STEP)


def hyper_parameters(program: Program) -> list[str]:
    """The symbols whose values the host knows, in the order of a row of `hyper`: the hyper-parameters, and its part of
    the gradients' factor."""
    return [name for name in _symbols(program) if not name.startswith("s.")]


def counted(program: Program) -> list[str]:
    """What the device counts on, in the order of their places in a row of `places`: the step, and the scalar slots."""
    read = [name.removeprefix("s.") for name in _symbols(program) if name.startswith("s.")]
    slots = sorted({*read, *(slot for slot, _ in program.scalar_slots)} - {"step"})
    return ["step", *slots]


def scalars(program: Program) -> str:
    """The kernel: each of its programs takes the numbers of one parameter one step on. A row of `places` says which row
    of `hyper` is its group's, and where in memory each of its counts stands."""
    hyper, counts = hyper_parameters(program), counted(program)
    names = {f"h{position}": symbol for position, symbol in enumerate(hyper)}
    names |= {f"s{position}": f"s.{name}" for position, name in enumerate(counts)}
    known = {symbol: name for name, symbol in names.items()}

    def leaf(node: Expression) -> str | None:
        return known[str(node.value)] if node.operation == "symbol" else None

    wanted = [*program.scalars, *(e for _, e in program.scalar_slots)]
    maths = Maths("float64", leaf, "c")
    maths.write(scalar_nodes(wanted), wanted)
    lines = [
        "if tl.load(verdict + 1) != 0:",
        "    return",
        "row = tl.program_id(0)",
        f"here = places + row * {1 + len(counts)}",
        f"group = hyper + tl.load(here) * {len(hyper)}",
        *maths.constant_lines,
        *(f"h{place} = tl.load(group + {place})  # {name}" for place, name in enumerate(hyper)),
        *(f"at{place} = tl.load(here + {1 + place}).to(tl.pointer_type(tl.float64))" for place, _ in enumerate(counts)),
        *(f"s{place} = tl.load(at{place})  # {name}" for place, name in enumerate(counts)),
        "s0 += 1.0",
        *maths.lines,
        *(
            f"tl.store(out + row * {len(program.scalars)} + {place}, {maths.text(e)})"
            for place, e in enumerate(program.scalars)
        ),
        "tl.store(at0, s0)",
        *(f"tl.store(at{counts.index(slot)}, {maths.text(e)})" for slot, e in program.scalar_slots),
    ]
    arguments = ["hyper", "places", "verdict", "out"]
    # Compiled once, wherever in memory its tables begin: what a graph captures is to be loaded before.
    decorator = f"@triton.jit(do_not_specialize_on_alignment={arguments})"
    return "\n".join([decorator, f"def scalars({', '.join(arguments)}):", *indented(lines)])


def _symbols(program: Program) -> list[str]:
    wanted = [*program.scalars, *(e for _, e in program.scalar_slots)]
    return sorted({str(node.value) for node in scalar_nodes(wanted) if node.operation == "symbol"})
