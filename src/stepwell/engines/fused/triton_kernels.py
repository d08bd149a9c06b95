"""Triton kernels: written from a program, their source kept in the user's cache folder.

Triton compiles a kernel when it is first launched, and keeps what it has compiled in a cache of its own.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from stepwell.codecs import Codec
from stepwell.engines.fused import triton_writer
from stepwell.engines.fused.arrays import arrays, draws
from stepwell.engines.fused.program import Phase, Program
from stepwell.engines.fused.source import HostScalars, host_function
from stepwell.engines.fused.triton_scalars import counted, hyper_parameters, with_step
from stepwell.machine.cache import keep, kept, module_of

# Threads of a program, in warps. Products and sums are not drawn together: every element is then worked out as it is
# written, whatever else stands beside it.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


class Kernel:
    """A program written for the codecs of its numbers: a Triton function for each step.

    Attributes:
        arrays: what a row of the table holds the addresses of.
        draws: it needs keys of random bits.
        steps: the names of the functions in their order, with whether each is a phase.
        hyper: the symbols that the host sends to `scalars`.
        counts: what `scalars` counts on.
    """

    def __init__(self, program: Program, codecs: Mapping[str, Codec], compute: str) -> None:
        self.draws = any(draws(phase, codecs) for phase in program.phases)
        self.program = program = with_step(program) if self.draws else program
        self.compute = compute
        self.source = triton_writer.write(program, codecs, compute)
        self.arrays = arrays(program, codecs)
        self.scalars: HostScalars = host_function(program)
        self.hyper, self.counts = hyper_parameters(program), counted(program)
        self.steps = [
            (f"{'phase' if isinstance(step, Phase) else 'finish'}{number // 2}", isinstance(step, Phase))
            for number, step in program.steps
        ]
        module = _module(program.name, self.source)
        self.functions: dict[str, Any] = {
            name: getattr(module, name) for name in (*(name for name, _ in self.steps), "scalars")
        }
        self._arguments = {
            name: [
                argument
                for argument in inspect.signature(function.fn).parameters
                if not argument.isupper()  # known when the kernel is compiled
            ]
            for name, function in self.functions.items()
        }

    def launch(self, name: str, programs: int, memory: Mapping[str, Tensor], **compiled_in: int) -> None:
        """Run one function, that many times side by side, on the current device and stream."""
        arguments = [memory[argument] for argument in self._arguments[name]]
        self.functions[name][(programs,)](*arguments, **compiled_in, **OPTIONS)


def _module(name: str, source: str) -> ModuleType:
    """The module of this source, which is kept for those who look for it in a traceback of Triton's."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    place = f"{name.replace('.', '_')}_{digest}_triton.py"
    if kept(place) != source.encode():
        keep(place, source.encode())
    return module_of(place, source)
