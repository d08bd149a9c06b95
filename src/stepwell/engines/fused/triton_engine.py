"""The fused engine on a GPU: Triton kernels over a table of the addresses of all tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codecs import Codec, Plain
from stepwell.engines.batch import REAL_DTYPES, Batch, not_captured
from stepwell.engines.dense import is_dense
from stepwell.engines.devices import capturing, on
from stepwell.engines.fused.arrays import computed_in
from stepwell.engines.fused.program import GRADIENT, WEIGHTS, Program
from stepwell.engines.fused.programs import Programs, rounds
from stepwell.engines.fused.triton_kernels import Kernel
from stepwell.engines.fused.triton_launch import Column, Counted, Launch
from stepwell.engines.fused.triton_layout import layout_of
from stepwell.engines.fused.triton_tables import Table
from stepwell.engines.fused.triton_verdict import Judge
from stepwell.engines.observing import UNITS
from stepwell.rules.rule import Rule, Shape

# What Triton compiles for, at the least.
CAPABILITY = (8, 0)


class Prepared:
    """What a batch keeps from step to step for one function: its launch, and where its numbers come from."""

    def __init__(self, launch: Launch, *, counts: bool) -> None:
        self.launch = launch
        self.counted = Counted(launch.kernel, launch.device) if counts else None
        self._table = Table(launch.device)

    def scalars(self, batch: Batch) -> Tensor:
        """The scalars, on the device."""
        if self.counted is not None:
            return self.counted.scalars(batch, self.launch.classes)
        rows = []
        for row, (group, numbers, members) in enumerate(batch.classes()):
            rows.append(self.launch.kernel.scalars(group, numbers)[0])
            self.launch.classes[members if row else slice(None)] = row
        return self._table.send(np.array(rows, dtype=np.float64).reshape(len(rows), -1))


class Triton(Programs):
    """Traces a rule once for its flags, and runs the kernels written from the trace for the dtypes at hand.

    Args:
        device_type: the devices it serves: "cuda", or under Triton's interpreter "cpu".
    """

    name = "fused"
    judges: Literal[True] = True
    counts_on = True
    takes_factor = True

    def __init__(self, device_type: str = "cuda") -> None:
        super().__init__()
        self._device_type = device_type
        self._kernels: dict[tuple[Any, ...], Kernel] = {}

    def serves(self, tensor: Tensor) -> bool:
        """Whether a tensor like this can be worked on: its numbers lie in the device's memory without gaps."""
        return tensor.device.type == self._device_type and tensor.dtype in REAL_DTYPES and is_dense(tensor)

    def leaves_out(self, batch: Batch) -> bool:
        """Whether it can leave a step of the batch out by a verdict: always."""
        del batch
        return True

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place."""
        self._run(batch, function, batch.verdict if function == "update" else None)
        self.add_up_the_rest(batch, function)

    def check_captured(self, batch: Batch) -> None:
        """See `Engine.check_captured`."""
        if type(batch.rule).measure is not Rule.measure:
            raise not_captured(batch.rule, "the host adds up over all parameters")

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over all elements of the batch. Nothing is changed."""
        launch = self._run(batch, "measure", None)
        program = launch.kernel.program
        totals = launch.memory["kept"].sum(0).tolist()
        return {name: totals[program.position(e)] for name, e in program.totals}

    def observed(self, batch: Batch) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """What the last update of an observed batch has added up: see `Programs.observed`."""
        launch: Launch = batch.prepared["update"].launch
        at = {name: launch.kernel.program.position(e) for name, e in launch.kernel.program.totals}
        rows = launch.rows_of(launch.memory["kept_rows"][:, at.pop(UNITS)]) if UNITS in at else []
        return {name: launch.memory["kept"][:, place] for name, place in at.items()}, rows

    def _run(self, batch: Batch, function: str, verdict: Tensor | None) -> Launch:
        with on(batch.weights[0].device):
            if function not in batch.prepared:
                batch.prepared[function] = self._prepare(batch, function)
            prepared: Prepared = batch.prepared[function]
            launch = prepared.launch
            scalars = prepared.scalars(batch)
            if launch.kernel.draws:
                launch.keys[:], launch.origins[:] = batch.keys, batch.origins
            known: dict[str, Column] = {WEIGHTS: batch.addresses, GRADIENT: batch.gradients, **batch.column_addresses}
            launch.run([known[each.name] for each in launch.kernel.arrays], scalars, verdict)
        return launch

    def _prepare(self, batch: Batch, function: str) -> Prepared:
        program, codecs, shapes = self.made_for(batch, function)
        kernel = self.kernel(program, codecs)
        return Prepared(self.launch(kernel, shapes, batch.weights[0].device), counts=function == "update")

    def launch(self, kernel: Kernel, shapes: Sequence[Shape], device: torch.device) -> Launch:
        """The launch of a kernel over tensors that are seen in these shapes."""
        layout = layout_of(tuple(map(torch.Size, shapes)), device, in_rows=kernel.program.has_rows)
        return Launch(kernel, layout, len(shapes), device)

    def totals(self, name: str, function: Callable[[Any], Any], tensors: list[Tensor]) -> NDArray[np.float64]:
        """Σ function(x) over the elements of each tensor: one read of the tensors, and nothing written.

        The tensors share a dtype and are dense. `function` is written in the algebra; `name` stands for it. The host
        waits for the result.
        """
        if capturing(tensors[0].device):
            raise RuntimeError(
                "on_nonfinite='raise' cannot be captured in a CUDA graph, nor can clipping at a first step: the host "
                "waits for the gradients' norm"
            )
        with on(tensors[0].device):
            kernel = self.total_kernel(name, function, tensors[0].dtype)
            launch = self.launch(kernel, [tensor.shape for tensor in tensors], tensors[0].device)
            launch.run([tensors], torch.empty(1, dtype=torch.float64, device=launch.device))
            kept: NDArray[np.float64] = launch.memory["kept"][:, 0].cpu().numpy()
        return kept

    def total_kernel(self, name: str, function: Callable[[Any], Any], dtype: torch.dtype) -> Kernel:
        """The kernel of Σ function(x), worked out in float64: the squares of large numbers are above float32."""
        return self.kernel(self.total(name, function), {GRADIENT: Plain(dtype)}, "float64")

    def judge(self, batches: list[Batch], verdict: Tensor | None = None) -> Judge:
        """What reaches verdicts on the gradients of these batches, which lie on one device: in the place of an earlier
        one, where that lies there too."""
        return Judge(self, batches, verdict)

    def kernel(self, program: Program, codecs: Mapping[str, Codec], compute: str | None = None) -> Kernel:
        """The kernel for a program on numbers that are stored so, by name."""
        key = (id(program), *codecs.items(), compute)
        if key not in self._kernels:
            self._kernels[key] = Kernel(program, codecs, compute or computed_in(codecs))
        return self._kernels[key]

    def source(self, rule: Rule, codecs: Mapping[str, Codec], gradient: torch.dtype) -> str:
        """The source of the kernels for a rule's update on weights and slots that are stored so."""
        program = self.program(rule, stores_round=rounds(codecs))
        return self.kernel(program, {**codecs, GRADIENT: Plain(gradient)}).source


def problem() -> str:
    """Why Triton cannot be used on the current device; empty where it can."""
    import triton

    try:
        target = triton.runtime.driver.active.get_current_target()
    except Exception as error:  # no driver, or no C compiler, which Triton asks for when it starts
        return f"Triton cannot start: {next(iter(str(error).splitlines()), type(error).__name__)}"
    if target.backend == "cuda" and (found := torch.cuda.get_device_capability()) < CAPABILITY:
        needed, this = (".".join(map(str, capability)) for capability in (CAPABILITY, found))
        return f"Triton needs a GPU of compute capability {needed}, this one has {this}"
    return ""
