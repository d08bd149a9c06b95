"""The fused engine on a CPU: one kernel over a table of the addresses of all tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.algebra.tracing import Level
from stepwell.codecs import Codec, Plain
from stepwell.engines.batch import REAL_DTYPES, Batch
from stepwell.engines.dense import is_dense
from stepwell.engines.fused import numba_writer
from stepwell.engines.fused.kernels import Kernel
from stepwell.engines.fused.numba_words import CHUNK, FRAME, TENSOR
from stepwell.engines.fused.program import GRADIENT, WEIGHTS, Finish, Program
from stepwell.engines.fused.programs import Programs, rounds
from stepwell.engines.observing import UNITS
from stepwell.machine.threads import run_in_threads
from stepwell.rules.rule import Rule, Shape

# A chunk is what one thread works on at a time: small enough to share out, large enough to hide the sharing. Where the
# columns of each are summed there are fewer, so that the sums stay small beside the tensors; where no row counts, those
# of a large model are twice as large.
CHUNK_ELEMENTS, CHUNK_OF_COLUMNS = 65_536, 262_144
LARGE_CHUNK, LARGE_MODEL = 131_072, 1 << 26
# What pays for one more thread (torch's own measure): below it, waiting for the others takes longer than the work.
GRAIN = 32_768


# Tensors, or where their addresses are known already, these.
Column = Sequence[Tensor] | NDArray[np.int64]
# Rows and columns, where the program asks for them; else one row.
Grid = tuple[int, int]


class Layout:
    """How tensors of these sizes are cut into chunks: anywhere, or between rows where rows count."""

    def __init__(self, grids: Sequence[Grid], limit: int, *, in_rows: bool) -> None:
        chunks: list[tuple[int, ...]] = []
        sizes: list[tuple[int, ...]] = []
        row = column = column_sum = 0
        for owner, (rows, columns) in enumerate(grids):
            first = len(chunks)
            sizes_of_it = [rows * columns, rows, columns, row, column, first, 0, column_sum]
            if in_rows and columns:
                lines = max(1, limit // columns)
                for start in range(0, rows, lines):
                    count = min(lines, rows - start)
                    chunks.append((owner, start * columns, count, columns, row + start, column_sum))
                    column_sum += columns
            elif not in_rows:
                total = rows * columns
                chunks += [(owner, start, 1, min(limit, total - start), 0, 0) for start in range(0, total, limit)]
            sizes_of_it[TENSOR.index("parts")] = len(chunks) - first
            sizes.append(tuple(sizes_of_it))
            row, column = row + rows, column + columns
        self.chunks = np.array(chunks, dtype=np.int64).reshape(-1, len(CHUNK))
        self.sizes = np.array(sizes, dtype=np.int64).reshape(-1, len(TENSOR))
        self.elements = sum(rows * columns for rows, columns in grids)
        self.rows, self.columns, self.column_sums = (row, column, column_sum) if in_rows else (0, 0, 0)


@functools.lru_cache(maxsize=64)
def layout_of(shapes: tuple[Shape, ...], *, in_rows: bool, in_columns: bool) -> Layout:
    """The layout of tensors of these shapes, for a program that asks for rows, and for columns."""
    if not in_rows:
        grids = [(1, math.prod(shape)) for shape in shapes]
        is_large = sum(elements for _, elements in grids) >= LARGE_MODEL
        return Layout(grids, LARGE_CHUNK if is_large else CHUNK_ELEMENTS, in_rows=False)
    grids = [(math.prod(shape[:-1]), shape[-1] if shape else 1) for shape in shapes]
    return Layout(grids, CHUNK_OF_COLUMNS if in_columns else CHUNK_ELEMENTS, in_rows=True)


class Launch:
    """The memory that a kernel is told of: the table of addresses, what each step keeps for the next, and the frame
    that leads to all of it. A batch keeps its own from step to step."""

    def __init__(self, kernel: Kernel, layout: Layout, tensors: int) -> None:
        self.kernel = kernel
        program = kernel.program
        compute = np.dtype(kernel.compute)
        kept = {level: max(1, len(nodes)) for level, nodes in program.kept.items()}
        self.items = (tensors, len(layout.chunks))  # of the even steps, and of the odd ones
        self.table = np.empty((len(kernel.arrays), tensors), dtype=np.int64)
        self.keys = np.zeros(tensors, dtype=np.uint64)
        self.origins = np.zeros(tensors, dtype=np.int64)
        self.classes = np.zeros(tensors, dtype=np.int64)
        self.kept = np.zeros((tensors, kept[Level.TENSOR]))
        self.kept_rows = np.zeros((kept[Level.ROW], layout.rows))
        self._rows: list[int] = layout.sizes[:, TENSOR.index("rows")].tolist()
        self._memory = {
            "table_at": self.table,
            "classes_at": self.classes,
            "chunks_at": layout.chunks,
            "sizes_at": layout.sizes,
            "keys_at": self.keys,
            "origins_at": self.origins,
            "kept_at": self.kept,
            "sums_at": np.zeros((len(layout.chunks), max(1, len(program.sums)))),
            "kept_rows_at": self.kept_rows,
            "kept_columns_at": np.zeros((kept[Level.COLUMN], layout.columns), dtype=compute),
            "column_sums_at": np.zeros((max(1, len(program.column_sums)), layout.column_sums), dtype=compute),
        }
        numbers = {
            "tensors": tensors,
            "chunks": len(layout.chunks),
            "all_rows": layout.rows,
            "all_columns": layout.columns,
            "all_column_sums": layout.column_sums,
            **{name: _address_of(array) for name, array in self._memory.items()},
        }
        self.frame = np.array([numbers.get(name, 0) for name in FRAME], dtype=np.int64)
        self._address = _address_of(self.frame)
        numbers_to_add = tensors + len(layout.chunks)
        short, long = (max(1, -(-elements // GRAIN)) for elements in (numbers_to_add, layout.elements))
        self._steps = [
            (number, short if isinstance(step, Finish) and step.is_short else long) for number, step in program.steps
        ]
        self._sums_of_rows = [program.position(e) for e in program.row_sums]

    def rows_of(self, kept: NDArray[Any]) -> list[Tensor]:
        """What is kept of each tensor's rows, out of what is kept of all, in the dtype computed in, as every engine has
        it: ranks add theirs up."""
        rows = kept.astype(self.kernel.compute)
        return list(map(torch.from_numpy, np.split(rows, np.cumsum(self._rows)[:-1])))

    def run(self, arrays: Sequence[Column], scalars: NDArray[np.float64]) -> None:
        """Run all steps on these arrays."""
        for row, column in enumerate(arrays):
            known = isinstance(column, np.ndarray)
            self.table[row] = column if known else np.fromiter(map(Tensor.data_ptr, column), np.int64, len(column))
        self.frame[_ROWS_OF_SCALARS], self.frame[_SCALARS_AT] = len(scalars), _address_of(scalars)
        if self._sums_of_rows:
            self.kept_rows[self._sums_of_rows] = 0.0
        threads = torch.get_num_threads()
        for step, most_threads in self._steps:
            items = self.items[step % 2]
            self.frame[_COUNTER], self.frame[_STEP], self.frame[_ITEMS] = 0, step, items
            if items:
                run_in_threads(self.kernel.run, self._address, min(threads, most_threads, items))


_COUNTER, _STEP, _ITEMS, _ROWS_OF_SCALARS, _SCALARS_AT = (
    FRAME.index(name) for name in ("counter", "step", "items", "rows_of_scalars", "scalars_at")
)


def _layout(program: Program, shapes: Iterable[Shape]) -> Layout:
    return layout_of(tuple(shapes), in_rows=program.has_rows, in_columns=program.has_columns)


def _address_of(array: NDArray[Any]) -> int:
    address: int = array.ctypes.data
    return address


class Fused(Programs):
    """Traces a rule once for its flags, and runs the kernels written from the trace for the dtypes at hand."""

    name = "fused"
    judges: Literal[False] = False
    counts_on = False
    takes_factor = False

    def __init__(self) -> None:
        super().__init__()
        self._kernels: dict[tuple[Any, ...], Kernel] = {}

    @staticmethod
    def serves(tensor: Tensor) -> bool:
        """Whether a tensor like this can be worked on: its numbers lie in the CPU's memory without gaps."""
        return tensor.is_cpu and tensor.dtype in REAL_DTYPES and is_dense(tensor)

    def leaves_out(self, batch: Batch) -> bool:
        """Whether it can leave a step of the batch out by a verdict: a CPU is its own host."""
        del batch
        return False

    def check_captured(self, batch: Batch) -> None:
        """Nothing of a CPU goes into a CUDA graph."""

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place."""
        self._run(batch, function)
        self.add_up_the_rest(batch, function)

    def _run(self, batch: Batch, function: str) -> Launch:
        if function not in batch.prepared:
            batch.prepared[function] = self._prepare(batch, function)
        launch: Launch = batch.prepared[function]
        program: Program = launch.kernel.program
        scalars: list[tuple[float, ...]] = []
        for row, (group, numbers, members) in enumerate(batch.classes()):
            values, new = launch.kernel.scalars(group, numbers)
            scalars.append(values)
            launch.classes[members if row else slice(None)] = row
            if new and function == "update":
                batch.keep(members, dict(zip((slot for slot, _ in program.scalar_slots), new, strict=True)))
        if launch.kernel.draws:
            launch.keys[:] = batch.keys_now()
        known: dict[str, Column] = {WEIGHTS: batch.addresses, GRADIENT: batch.gradients, **batch.column_addresses}
        launch.run([known[each.name] for each in launch.kernel.arrays], np.array(scalars, dtype=np.float64))
        return launch

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over all elements of the batch. Nothing is changed."""
        launch = self._run(batch, "measure")
        program = launch.kernel.program
        return {name: float(launch.kept[:, program.position(e)].sum()) for name, e in program.totals}

    def observed(self, batch: Batch) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """What the last update of an observed batch has added up: see `Programs.observed`."""
        launch: Launch = batch.prepared["update"]
        at = {name: launch.kernel.program.position(e) for name, e in launch.kernel.program.totals}
        rows = launch.rows_of(launch.kept_rows[at.pop(UNITS)]) if UNITS in at else []
        return {name: torch.from_numpy(launch.kept[:, place]) for name, place in at.items()}, rows

    def _prepare(self, batch: Batch, function: str) -> Launch:
        program, codecs, shapes = self.made_for(batch, function)
        kernel = self.kernel(program, codecs)
        launch = Launch(kernel, _layout(program, shapes), len(batch.weights))
        if kernel.draws:
            launch.origins[:] = batch.origins
        return launch

    def totals(self, name: str, function: Callable[[Any], Any], tensors: list[Tensor]) -> NDArray[np.float64]:
        """Σ function(x) over the elements of each tensor: one read of the tensors, and nothing written.

        The tensors share a dtype and are dense. `function` is written in the algebra; `name` stands for it.
        """
        kernel = self.kernel(self.total(name, function), {GRADIENT: Plain(tensors[0].dtype)})
        launch = Launch(kernel, _layout(kernel.program, [tensor.shape for tensor in tensors]), len(tensors))
        launch.run([tensors], np.zeros((1, 0)))
        return launch.kept[:, 0]

    def kernel(self, program: Program, codecs: Mapping[str, Codec]) -> Kernel:
        """The kernel for a program on numbers that are stored so, by name."""
        key = (id(program), *codecs.items())
        if key not in self._kernels:
            self._kernels[key] = Kernel(program, codecs)
        return self._kernels[key]

    def source(self, rule: Rule, codecs: Mapping[str, Codec], gradient: torch.dtype) -> str:
        """The source of the kernel for a rule's update on weights and slots that are stored so."""
        program = self.program(rule, stores_round=rounds(codecs))
        return numba_writer.write(program, {**codecs, GRADIENT: Plain(gradient)})
