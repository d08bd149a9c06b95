"""The fused engine on a CPU: one kernel over a table of the addresses of all tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.engines.batch import Batch
from stepwell.engines.dense import is_dense
from stepwell.engines.fused import numba_writer
from stepwell.engines.fused.kernels import Kernel
from stepwell.engines.fused.program import GRADIENT, WEIGHTS, Program, trace, trace_total
from stepwell.engines.fused.threads import run_in_threads
from stepwell.rules.rule import Rule, flags

# A chunk is what one thread works on at a time: small enough to share out, large enough to hide the sharing.
CHUNK = 65_536

DTYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
# Stored in fewer bits than they are computed with.
_ROUNDING = (torch.bfloat16, torch.float16)


class Layout:
    """How tensors of these sizes are cut into chunks."""

    def __init__(self, sizes: Sequence[int]) -> None:
        owners, starts, lengths = [], [], []
        for owner, size in enumerate(sizes):
            for start in range(0, size, CHUNK):
                owners.append(owner)
                starts.append(start)
                lengths.append(min(CHUNK, size - start))
        self.owners, self.starts, self.lengths = (np.array(a, dtype=np.int64) for a in (owners, starts, lengths))
        self.counts = np.array(sizes, dtype=np.float64)


class Fused:
    """Traces a rule once for its flags, and runs the kernels written from the trace for the dtypes at hand."""

    name = "fused"

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._layouts: dict[tuple[int, ...], Layout] = {}

    @staticmethod
    def serves(tensor: Tensor) -> bool:
        """Whether a tensor like this can be worked on: its numbers lie in the CPU's memory without gaps."""
        return tensor.device.type == "cpu" and tensor.dtype in DTYPES and is_dense(tensor)

    def apply(self, batch: Batch, function: str = "update") -> None:
        stored = [batch.weights, *batch.columns.values()]
        program = self.program(
            batch.rule, function, stores_round=any(column[0].dtype in _ROUNDING for column in stored)
        )
        fixed = {WEIGHTS: batch.weights, GRADIENT: batch.gradients}
        arrays = [fixed.get(name) or batch.columns[name] for name in program.arrays]
        kernel = self.kernel(program, tuple(column[0].dtype for column in arrays))
        rows = np.zeros(len(batch.weights), dtype=np.int64)
        scalars: list[tuple[float, ...]] = []
        for row, (group, numbers, members) in enumerate(batch.classes()):
            values, new = kernel.scalars(group, numbers)
            scalars.append(values)
            if row:
                rows[members] = row
            if new and function == "update":
                batch.keep(members, dict(zip((slot for slot, _ in program.scalar_slots), new, strict=True)))
        self._run(kernel, arrays, rows, np.array(scalars, dtype=np.float64))

    def totals(self, name: str, function: Callable[[Any], Any], tensors: list[Tensor]) -> NDArray[np.float64]:
        """Σ function(x) over the elements of each tensor: one read of the tensors, and nothing written.

        The tensors share a dtype and are dense. `function` is written in the algebra; `name` stands for it.
        """
        if name not in self._programs:
            self._programs[name] = trace_total(name, function)
        kernel = self.kernel(self._programs[name], (tensors[0].dtype,))
        return self._run(kernel, [tensors], np.zeros(len(tensors), dtype=np.int64), np.zeros((1, 0)))[:, 0]

    def program(self, rule: Rule, function: str = "update", *, stores_round: bool = False) -> Program:
        """The trace of one function of a rule with these flags."""
        key = (type(rule), flags(type(rule), rule.values()), function, stores_round)
        if key not in self._programs:
            self._programs[key] = trace(rule, function, stores_round=stores_round)
        return self._programs[key]

    def kernel(self, program: Program, dtypes: tuple[torch.dtype, ...]) -> Kernel:
        """The kernel for a program on arrays of these dtypes, in the program's order."""
        key = (id(program), dtypes)
        if key not in self._kernels:
            names = dict(zip(program.arrays, (DTYPES[dtype] for dtype in dtypes), strict=True))
            self._kernels[key] = Kernel(program, names)
        return self._kernels[key]

    def source(self, rule: Rule, dtype: torch.dtype) -> str:
        """The source of the kernel for a rule's update on weights, gradients and slots of this dtype."""
        program = self.program(rule, stores_round=dtype in _ROUNDING)
        return numba_writer.write(program, dict.fromkeys(program.arrays, DTYPES[dtype]))

    def _run(
        self, kernel: Kernel, arrays: list[list[Tensor]], rows: NDArray[np.int64], scalars: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        layout = self._layout(arrays[0])
        table = np.empty((len(arrays), len(rows)), dtype=np.int64)
        for row, column in enumerate(arrays):
            table[row] = np.fromiter(map(Tensor.data_ptr, column), np.int64, len(column))
        width = len(kernel.program.reductions)
        partials, reduced = np.zeros((len(layout.owners), width)), np.zeros((len(rows), width))
        chunks, threads = len(layout.owners), min(torch.get_num_threads(), len(layout.owners))
        parts = (table, layout.owners, layout.starts, layout.lengths, rows, scalars, layout.counts, partials, reduced)
        addresses = [array.ctypes.data for array in parts]
        for number, phase in enumerate(kernel.program.phases):
            frame = np.array([0, number, chunks, len(rows), len(scalars), *addresses], dtype=np.int64)
            if threads:
                run_in_threads(kernel.run, frame.ctypes.data, threads)
            for position in (kernel.program.position(r) for r in phase.reductions):
                # Chunk by chunk, in their order: the same bits whatever the number of threads.
                np.add.at(reduced[:, position], layout.owners, partials[:, position])
        return reduced

    def _layout(self, tensors: list[Tensor]) -> Layout:
        sizes = tuple(map(Tensor.numel, tensors))
        if sizes not in self._layouts:
            self._layouts[sizes] = Layout(sizes)
        return self._layouts[sizes]
