"""What is asked of all gradients before a step, asked and answered on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stepwell.algebra import square
from stepwell.engines.batch import Batch
from stepwell.engines.devices import on, same_device
from stepwell.engines.fused.triton_launch import Launch
from stepwell.engines.fused.triton_memory import judge
from stepwell.engines.fused.triton_tables import Table, neutral

if TYPE_CHECKING:
    from stepwell.engines.fused.triton_engine import Triton

_BLOCK = 1024


class Judge:
    """Reaches one verdict on the gradients of some batches, which lie on one device. The host waits for nothing.

    Args:
        engine: what adds up the gradients' squares.
        batches: those that the gradients are in.
        verdict: an earlier one, whose place it takes and whose count of steps left out it goes on with, where that lies
            on the same device.
    """

    def __init__(self, engine: Triton, batches: list[Batch], verdict: Tensor | None = None) -> None:
        self._engine = engine
        self._batches = batches
        self._device = batches[0].weights[0].device
        self._settings = Table(self._device)
        self._launches: list[Launch] = []
        self._sums = neutral(self._device)
        there = same_device(verdict, self._device)
        self.verdict = verdict if verdict is not None and there else neutral(self._device).clone()

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph reads what is kept here."""
        return self._settings.captured

    def reach(
        self, *, limit: float | None = None, skipping: bool = False, scale: Tensor | None, found: Tensor | None
    ) -> Tensor:
        """The verdict, always in the same place.

        Args:
            limit: the greatest global norm, or None for no clipping.
            skipping: leave the step out where a gradient is not finite.
            scale: what the loss was multiplied with, which is undone first.
            found: not 0 where a scaler has found infinity or NaN: then too the step is left out.
        """
        measured = limit is not None or skipping
        with on(self._device):
            if measured:
                self._add_up()
            settings = self._settings.send(np.array([0.0 if limit is None else limit, len(self._sums)]))
            judge[(1,)](
                self._sums,
                settings,
                self._here(scale),
                self._here(found),
                self.verdict,
                MEASURED=measured,
                CLIPPED=limit is not None,
                SCALED=scale is not None,
                FOUND=found is not None,
                SKIPPING=skipping,
                BLOCK=_BLOCK,
            )
        return self.verdict

    def _here(self, tensor: Tensor | None) -> Tensor:
        """The tensor on this device; any other in place of none."""
        return self.verdict if tensor is None else tensor.to(self._device, non_blocking=True)

    def _add_up(self) -> None:
        """Σg² over each chunk of all gradients."""
        if not self._launches:
            for batch in self._batches:
                kernel = self._engine.total_kernel("sum of squares", square, batch.gradients[0].dtype)
                shapes = [gradient.shape for gradient in batch.gradients]
                self._launches.append(self._engine.launch(kernel, shapes, self._device))
            sizes = [len(launch.memory["sums"]) for launch in self._launches]
            self._sums = torch.zeros(sum(sizes), dtype=torch.float64, device=self._device)
            for launch, sums in zip(self._launches, torch.split(self._sums, sizes), strict=True):
                launch.memory["sums"] = sums
        for launch, batch in zip(self._launches, self._batches, strict=True):
            launch.run([batch.gradients], neutral(self._device), finishes=False)
