"""Kernels on a CPU: written from a program, compiled, and what they need to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stepwell.codecs import Codec, codec
from stepwell.engines.fused import numba_writer
from stepwell.engines.fused.arrays import arrays, computed_in, draws
from stepwell.engines.fused.program import Program
from stepwell.engines.fused.source import HostScalars, host_function
from stepwell.machine.code import Code

# What the source of a kernel takes in.
_HERE, _CODECS = Path(__file__).parent, Path(codec.__file__).parent
_IMPORTED = (_HERE / "stored.py", _HERE / "block_memory.py", _CODECS / "blocks.py", _CODECS / "noise.py")


class Kernel:
    """A program compiled for the codecs of its numbers.

    Attributes:
        arrays: what the rows of the table of addresses are.
        draws: it needs keys of random bits.
    """

    def __init__(self, program: Program, codecs: Mapping[str, Codec]) -> None:
        self.program = program
        self.compute = computed_in(codecs)
        self.source = numba_writer.write(program, codecs)
        self.arrays = arrays(program, codecs)
        self.draws = any(draws(phase, codecs) for phase in program.phases)
        self.scalars: HostScalars = host_function(program)
        self._code = Code(program.name, self.source, _IMPORTED)
        self.run = self._code.run
