"""The fused engine on a CPU: one kernel over a table of the addresses of all tensors."""

from __future__ import annotations

import functools
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
# What pays for one more thread (torch's own measure): below it, waiting for the others takes longer than the work.
GRAIN = 32_768

DTYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
# Stored in fewer bits than they are computed with.
_ROUNDING = (torch.bfloat16, torch.float16)


# Tensors, or where their addresses are known already, these.
Column = Sequence[Tensor] | NDArray[np.int64]


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
        self.most_threads = min(len(owners), -(-sum(sizes) // GRAIN))


@functools.lru_cache(maxsize=64)
def layout_of(sizes: tuple[int, ...]) -> Layout:
    """The layout of tensors of these sizes."""
    return Layout(sizes)


class Launch:
    """The memory that a kernel is told of: the table of addresses, what each phase adds up, and the frame that leads
    to all of it. A batch keeps its own from step to step."""

    def __init__(self, kernel: Kernel, layout: Layout, tensors: int) -> None:
        self.kernel = kernel
        self.layout = layout
        width = len(kernel.program.reductions)
        self.table = np.empty((len(kernel.program.arrays), tensors), dtype=np.int64)
        self.rows = np.zeros(tensors, dtype=np.int64)
        self.partials = np.zeros((len(layout.owners), width))
        self.reduced = np.zeros((tensors, width))
        parts = (self.table, layout.owners, layout.starts, layout.lengths, self.rows)
        sums = (layout.counts, self.partials, self.reduced)
        numbers = [0, 0, len(layout.owners), tensors, 0, *map(_address_of, parts), 0, *map(_address_of, sums)]
        self.frame = np.array(numbers, dtype=np.int64)
        self._address = _address_of(self.frame)

    def run(self, arrays: Sequence[Column], scalars: NDArray[np.float64]) -> None:
        """Run all phases on these arrays."""
        for row, column in enumerate(arrays):
            known = isinstance(column, np.ndarray)
            self.table[row] = column if known else np.fromiter(map(Tensor.data_ptr, column), np.int64, len(column))
        self.reduced.fill(0.0)
        self.frame[4], self.frame[10] = len(scalars), _address_of(scalars)
        threads = min(torch.get_num_threads(), self.layout.most_threads)
        for number, phase in enumerate(self.kernel.program.phases):
            self.frame[0], self.frame[1] = 0, number
            if threads:
                run_in_threads(self.kernel.run, self._address, threads)
            for position in map(self.kernel.program.position, phase.reductions):
                # Chunk by chunk, in their order: the same bits whatever the number of threads.
                np.add.at(self.reduced[:, position], self.layout.owners, self.partials[:, position])


def _address_of(array: NDArray[Any]) -> int:
    address: int = array.ctypes.data
    return address


class Fused:
    """Traces a rule once for its flags, and runs the kernels written from the trace for the dtypes at hand."""

    name = "fused"

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}
        self._kernels: dict[tuple[Any, ...], Kernel] = {}

    @staticmethod
    def serves(tensor: Tensor) -> bool:
        """Whether a tensor like this can be worked on: its numbers lie in the CPU's memory without gaps."""
        return tensor.device.type == "cpu" and tensor.dtype in DTYPES and is_dense(tensor)

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place."""
        self._run(batch, function)

    def _run(self, batch: Batch, function: str) -> Launch:
        if function not in batch.prepared:
            batch.prepared[function] = self._prepare(batch, function)
        launch: Launch = batch.prepared[function]
        program: Program = launch.kernel.program
        scalars: list[tuple[float, ...]] = []
        for row, (group, numbers, members) in enumerate(batch.classes()):
            values, new = launch.kernel.scalars(group, numbers)
            scalars.append(values)
            launch.rows[members if row else slice(None)] = row
            if new and function == "update":
                batch.keep(members, dict(zip((slot for slot, _ in program.scalar_slots), new, strict=True)))
        known: dict[str, Sequence[Tensor] | NDArray[np.int64]] = {
            WEIGHTS: batch.addresses,
            GRADIENT: batch.gradients,
            **batch.columns,
        }
        launch.run([known[name] for name in program.arrays], np.array(scalars, dtype=np.float64))
        return launch

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over all elements of the batch. Nothing is changed."""
        launch = self._run(batch, "measure")
        program = launch.kernel.program
        return {name: float(launch.reduced[:, program.position(e)].sum()) for name, e in program.totals}

    def _prepare(self, batch: Batch, function: str) -> Launch:
        columns = {WEIGHTS: batch.weights, GRADIENT: batch.gradients, **batch.columns}
        stored = {column[0].dtype for name, column in columns.items() if name != GRADIENT}
        program = self.program(batch.rule, function, stores_round=not stored.isdisjoint(_ROUNDING))
        kernel = self.kernel(program, tuple(columns[name][0].dtype for name in program.arrays))
        return Launch(kernel, layout_of(tuple(map(Tensor.numel, batch.weights))), len(batch.weights))

    def totals(self, name: str, function: Callable[[Any], Any], tensors: list[Tensor]) -> NDArray[np.float64]:
        """Σ function(x) over the elements of each tensor: one read of the tensors, and nothing written.

        The tensors share a dtype and are dense. `function` is written in the algebra; `name` stands for it.
        """
        if name not in self._programs:
            self._programs[name] = trace_total(name, function)
        kernel = self.kernel(self._programs[name], (tensors[0].dtype,))
        launch = Launch(kernel, layout_of(tuple(map(Tensor.numel, tensors))), len(tensors))
        launch.run([tensors], np.zeros((1, 0)))
        return launch.reduced[:, 0]

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
