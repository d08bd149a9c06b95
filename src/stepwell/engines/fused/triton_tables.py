"""Small tables that the host works out and the device reads."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.engines.devices import capturing


class Table:
    """A table of the host's, and its copy on the device, which is sent anew where a number has changed.

    A copy is never written to, so that a CUDA graph may go on reading the one it was captured with. What is sent while
    a graph is captured is part of the graph: it comes from pinned memory that was set aside before, as none may be
    asked for then, and is kept for as long as the table lives.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sent: NDArray[Any] | None = None
        self._copy: Tensor | None = None
        self._stream = 0
        self._aside: Tensor | None = None
        self._captured: list[Tensor] = []
        self._captured_from: Tensor | None = None

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph reads it."""
        return bool(self._captured)

    def adopt(self, values: NDArray[Any], copy: Tensor) -> None:
        """Take these values as sent: the device has them already."""
        self._sent, self._copy = values.copy(), copy

    def set_aside(self, values: NDArray[Any]) -> None:
        """Have memory for a table of this size to be sent from while a graph is captured."""
        if self._aside is None or self._aside.shape != values.shape:
            self._aside = torch.from_numpy(values).clone()
            if self._device.type == "cuda":
                self._aside = self._aside.pin_memory()

    def send(self, values: NDArray[Any]) -> Tensor:
        """The copy of these values on the device."""
        sent = self._sent
        known = sent is not None and sent.shape == values.shape and sent.tobytes() == values.tobytes()
        if capturing(self._device):
            copy = self._copy if known else self._captured_copy(values)
            assert copy is not None
            self._captured.append(copy)
            return copy
        # A copy made on one stream would be freed there, whatever still reads it on another.
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.current_stream(self._device).cuda_stream if on_gpu else 0
        if not known or stream != self._stream:
            self._stream = stream
            source = torch.from_numpy(values.copy())
            self._copy = source.pin_memory().to(self._device, non_blocking=True) if on_gpu else source
            self._sent = values.copy()
        self.set_aside(values)
        assert self._copy is not None
        return self._copy

    def _captured_copy(self, values: NDArray[Any]) -> Tensor:
        source = self._captured_from
        if source is not None and source.shape == values.shape and source.numpy().tobytes() == values.tobytes():
            return source.to(self._device, non_blocking=True, copy=True)
        aside, self._aside = self._aside, None
        if aside is None or aside.shape != values.shape:
            raise RuntimeError(
                "a CUDA graph can capture a step like one that was taken before: take one between two captures"
            )
        aside.numpy()[...] = values  # at once: only what the device does is captured
        self._captured.append(aside)
        self._captured_from = aside
        return aside.to(self._device, non_blocking=True, copy=True)


def neutral(device: torch.device) -> Tensor:
    """The verdict on gradients that are taken as they are."""
    return _verdict(device, 1.0, 0.0)


def left_out(device: torch.device) -> Tensor:
    """The verdict that leaves a step out."""
    return _verdict(device, 1.0, 1.0)


@functools.cache
def _verdict(device: torch.device, factor: float, leaves_out: float) -> Tensor:
    return torch.from_numpy(np.array([factor, leaves_out, 0.0, 0.0])).to(device)
