"""What is asked of a device, and what only it knows."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def capturing(device: torch.device) -> bool:
    """Whether what is asked of the device now goes into a CUDA graph instead of being done."""
    if device.type != "cuda":
        return False
    with on(device):
        return torch.cuda.is_current_stream_capturing()


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Launches go to this device, and to the stream that is current there."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def stream_of(device: torch.device) -> Any:
    """The stream that is current on the device; None where it has no streams."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def under(stream: Any) -> AbstractContextManager[Any]:
    """Launches go to this stream, and to its device; with None nothing changes."""
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


def same_device(tensor: Any, device: torch.device) -> bool:
    """Whether this is a tensor on the device, which the host cannot read without waiting."""
    return isinstance(tensor, Tensor) and tensor.device == device
