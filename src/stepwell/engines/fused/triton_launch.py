"""The memory that a Triton kernel is told of, and its launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.algebra.tracing import Level
from stepwell.engines.batch import Batch, addresses_of
from stepwell.engines.devices import capturing, same_device
from stepwell.engines.fused.triton_kernels import Kernel
from stepwell.engines.fused.triton_layout import Layout
from stepwell.engines.fused.triton_tables import Table, left_out, neutral
from stepwell.engines.fused.triton_words import TENSOR, WORD
from stepwell.rules.rule import Rule

# Tensors, or where their addresses are known already, these.
Column = Sequence[Tensor] | NDArray[np.int64]


class Launch:
    """One program over some tensors on one device: the table of addresses, and what each step keeps for the next.

    A batch keeps its own from step to step.
    """

    def __init__(self, kernel: Kernel, layout: Layout, tensors: int, device: torch.device) -> None:
        self.kernel = kernel
        self.device = device
        self._layout = layout
        self._tensors = tensors
        self._host = np.zeros((tensors, 3 + len(kernel.arrays)), dtype=np.int64)
        self._table = Table(device)
        self._aligned_for: Tensor | None = None
        self._align = 1
        program, compute = kernel.program, getattr(torch, kernel.compute)
        sizes = {
            "sums": (layout.chunks, len(program.sums), torch.float64),
            "kept": (tensors, len(program.kept[Level.TENSOR]), torch.float64),
            "row_sums": (layout.row_sums, len(program.row_sums), compute),
            "column_sums": (layout.column_sums, len(program.column_sums), compute),
            "kept_rows": (layout.rows, len(program.kept[Level.ROW]), compute),
            "kept_columns": (layout.columns, len(program.kept[Level.COLUMN]), compute),
        }
        self.memory = {
            name: torch.empty((count, width), dtype=dtype, device=device)
            for name, (count, width, dtype) in sizes.items()
        }
        self.memory["sizes"] = layout.sizes

    @property
    def classes(self) -> NDArray[np.int64]:
        """For each tensor which row of the scalars it uses; to be written to."""
        return self._host[:, 0]

    @property
    def origins(self) -> NDArray[np.int64]:
        """For each tensor the place of its first element among those that random bits are counted by; to be written
        to."""
        return self._host[:, -2]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """For each tensor the key of its random bits; to be written to."""
        return self._host[:, -1].view(np.uint64)

    def rows_of(self, kept: Tensor) -> list[Tensor]:
        """What is kept of each tensor's rows, out of what is kept of all."""
        sizes = self._layout.sizes[:, [TENSOR.index("row"), TENSOR.index("rows")]].tolist()
        return [kept[row : row + rows] for row, rows in sizes]

    def run(
        self, arrays: Sequence[Column], scalars: Tensor, verdict: Tensor | None = None, *, finishes: bool = True
    ) -> None:
        """Run all steps on these arrays; without `finishes` the phases alone, which leave their sums."""
        for place, column in enumerate(arrays, start=1):
            self._host[:, place] = column if isinstance(column, np.ndarray) else addresses_of(column)
        table = self._table.send(self._host)
        if table is not self._aligned_for:
            self._aligned_for = table
            self._align = 1 if (self._host[:, 1:-2] % WORD).any() else WORD
        memory = {
            **self.memory,
            "table": table,
            "scalars": scalars,
            "verdict": neutral(self.device) if verdict is None else verdict,
        }
        for name, is_phase in self.kernel.steps:
            if is_phase:
                self._phase(name, memory)
            elif finishes:
                self.kernel.launch(name, self._tensors, memory)

    def _phase(self, name: str, memory: dict[str, Tensor]) -> None:
        for part in self._layout.parts:
            if len(part.chunks):
                of_part = {**memory, "chunks": part.chunks, "sums": memory["sums"][part.first :]}
                if part.columns:
                    align = self._align if part.aligned else 1
                    self.kernel.launch(
                        name, len(part.chunks), of_part, ALIGN=align, ROWS=part.rows, COLUMNS=part.columns
                    )
                else:
                    self.kernel.launch(name, len(part.chunks), of_part, ALIGN=self._align)


class Counted:
    """The numbers of a batch's update: worked out by the host, or counted on by the device itself.

    The host's way is the usual one: it works the scalars out in float64 and sends them. The device's is for a step of
    which the host does not know whether it is taken (a verdict may leave it out), how often (a CUDA graph), or with
    what (a learning rate in a tensor on the device). From then on the steps and scalar slots in the parameters' states
    are places on the device, each parameter's its own: other batches of the same parameters, and of some of them, count
    on in the same places, so that a CUDA graph goes on from there.
    """

    def __init__(self, kernel: Kernel, device: torch.device) -> None:
        self._kernel = kernel
        self._device = device
        self._numbers, self._hyper, self._table = Table(device), Table(device), Table(device)
        # What was sent last: the scalars, each parameter's counts after that step, and each group's hyper-parameters.
        self._last: tuple[Tensor, list[NDArray[np.float64]]] | None = None
        self._places: list[Tensor] = []  # where the device counts, once it does
        self._rows = np.zeros((0, 0), dtype=np.int64)
        self._scalars = torch.empty(0, device=device)

    def scalars(self, batch: Batch, classes: NDArray[np.int64]) -> Tensor:
        """The scalars of this step, on the device, and in `classes` the row of each parameter."""
        if not self._places and (batch.counted_on_device or self._must_count(batch)):
            if not batch.counted_on_device:
                self._begin(batch)
            self._take_places(batch, classes)
        if self._places:
            return self._counted(batch)
        rows, hyper = [], {}
        counts = np.empty((len(batch.states), len(self._kernel.counts)))
        for row, (group, numbers, members) in enumerate(batch.classes()):
            values, new = self._kernel.scalars(group, numbers)
            rows.append(values)
            classes[members if row else slice(None)] = row
            kept = dict(zip((slot for slot, _ in self._kernel.program.scalar_slots), new, strict=True))
            batch.keep(members, kept)
            now = {**numbers, **kept}
            counts[members if row else slice(None)] = [now[name] for name in self._kernel.counts]
            if id(group) not in hyper:
                hyper[id(group)] = [_value(group, name, numbers["gradient_factor"]) for name in self._kernel.hyper]
        tables = [_table(rows), counts, _table([*hyper.values()])]
        self._hyper.set_aside(tables[2])
        sent = self._numbers.send(np.concatenate([table.ravel() for table in tables]))
        if self._last is None:
            self._load(sent, tables)
        self._last = (sent, tables)
        return sent  # which begins with the scalars

    def _load(self, sent: Tensor, tables: list[NDArray[np.float64]]) -> None:
        """Have the kernel loaded with which the device counts: a graph cannot capture that, only launches."""
        counts, hyper = _after_scalars(sent, tables)
        places = self._table.send(np.zeros((len(counts), 1 + len(self._kernel.counts)), dtype=np.int64))
        memory = {"hyper": hyper, "places": places, "out": sent, "verdict": left_out(self._device)}
        self._kernel.launch("scalars", 1, memory)

    def _must_count(self, batch: Batch) -> bool:
        """Whether the device has to count this step."""
        if capturing(self._device):
            assert self._last is not None  # `Buckets` sees to it: a first step cannot be captured
            return True
        if type(batch.rule).measure is not Rule.measure:  # the host adds up some of what is counted
            return False
        return self._last is not None and (batch.may_skip or batch.reads_device)

    def _counted(self, batch: Batch) -> Tensor:
        """The scalars, worked out by the device from the hyper-parameters and what it has counted."""
        held: list[tuple[int, int, Tensor]] = []
        rows = []
        for row, members in enumerate(batch.members):
            group = batch.live_group(members[0])
            values = [_value(group, name, batch.gradient_factor) for name in self._kernel.hyper]
            held += [(row, place, value) for place, value in enumerate(values) if same_device(value, self._device)]
            rows.append([0.0 if same_device(value, self._device) else float(value) for value in values])
        hyper = self._hyper.send(_table(rows))
        if held:
            hyper = hyper.clone()
            for row, place, value in held:
                hyper[row, place].copy_(value.detach().reshape(()))
        memory = {"hyper": hyper, "places": self._table.send(self._rows), "out": self._scalars}
        memory["verdict"] = neutral(self._device) if batch.verdict is None else batch.verdict
        self._kernel.launch("scalars", len(self._rows), memory)
        return self._scalars

    def _begin(self, batch: Batch) -> None:
        """Let the device count on from what was sent to it last, and the states say what it has counted."""
        assert self._last is not None
        sent, tables = self._last
        counts, hyper = _after_scalars(sent, tables)
        now = _table([[state[name] for name in self._kernel.counts] for state in batch.states])
        now[:, 0] -= 1  # this update is counted already
        if not np.array_equal(now, tables[1], equal_nan=True):  # other batches have taken steps since; none in a graph
            counts = torch.from_numpy(now).to(self._device)
        self._hyper.adopt(tables[2], hyper)
        for index in range(len(batch.states)):
            batch.keep([index], {name: counts[index, place] for place, name in enumerate(self._kernel.counts)})
        batch.leave_counting()

    def _take_places(self, batch: Batch, classes: NDArray[np.int64]) -> None:
        """Count in the places that stand in the states: each parameter has a row of the scalars then."""
        tensors, names = len(batch.states), self._kernel.counts
        self._places = [state[name] for state in batch.states for name in names]
        self._rows = np.empty((tensors, 1 + len(names)), dtype=np.int64)
        for row, members in enumerate(batch.members):
            self._rows[members, 0] = row
        self._rows[:, 1:] = addresses_of(self._places).reshape(tensors, -1)
        classes[:] = np.arange(tensors)
        width = len(self._kernel.program.scalars)
        self._scalars = torch.empty((tensors, width), dtype=torch.float64, device=self._device)


def _after_scalars(sent: Tensor, tables: list[NDArray[np.float64]]) -> tuple[Tensor, Tensor]:
    """The counts and the hyper-parameters, which are sent behind the scalars."""
    first, second, third = (table.shape for table in tables)
    until = math.prod(first) + math.prod(second)
    return sent[math.prod(first) : until].view(second), sent[until:].view(third)


def _table(rows: list[Any]) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def _value(group: Any, symbol: str, gradient_factor: float) -> Any:
    """The value of a symbol: "gradient_factor", "h.lr", "h.betas[0]", or "h.pairs[0][1]"."""
    if symbol == "gradient_factor":
        return gradient_factor
    name, *indices = symbol.removeprefix("h.").split("[")
    value = group[name]
    for index in indices:
        value = value[int(index[:-1])]
    return value
