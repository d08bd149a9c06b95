"""`python -m bench memory`: what one step needs above parameters, gradients and state.

Seen in two ways, each in a step of its own. *Allocated*: the peak of what torch's allocator hands out, plus that of
what Python and NumPy take. *Resident*: how far the process's resident memory rises, which also sees what native code
takes by itself; the kernel counts it to within some hundred KiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.autograd.profiler import profile

from bench.contenders import OURS, entrants, first_line
from bench.material import Materials
from bench.records import MemoryRow
from bench.shapes import Shapes
from bench.subjects import Subject
from bench.turns import Step, synchronise, warmed_up


def measure(subjects: Sequence[Subject], shapes: Sequence[Shapes], device: torch.device) -> Iterator[MemoryRow]:
    """One row for each list of tensors, rule and contender that can take part; who fails is named on stderr.

    Rules of matrices need room for products, and are out.
    """
    for tensors in shapes:
        materials = Materials(tensors, device)
        for subject in subjects:
            if subject.rule.acts_on == "matrices":
                continue
            material = materials.of(subject.dtype)
            makers, _ = entrants(subject, device)
            for name, make in makers.items():
                try:
                    allocated, resident = peaks(make(material.parameters).step, device)
                except Exception as error:
                    if name == OURS:
                        raise
                    print(f"{subject.title}: {name} fails: {first_line(error)}", file=sys.stderr)
                else:
                    yield MemoryRow(subject.title, tensors.title, tensors.parameters, name, allocated, resident)
                material.restore()


def peaks(step: Step, device: torch.device) -> tuple[int, int | None]:
    """Bytes allocated, and bytes by which the process grows, at the peak of a step; two steps warm it up."""
    warmed_up(step, device)
    gc.collect()
    if device.type == "cuda":
        return cuda_peak(step, device), None
    return allocated_peak(step), resident_peak(step)


def allocated_peak(step: Step) -> int:
    """The peak of what torch's CPU allocator hands out during a step, plus the peak of what Python and NumPy take."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    with _quiet(), profile(profile_memory=True) as record:
        step()
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.kineto_results is not None
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak + python_peak - before


def resident_peak(step: Step) -> int | None:
    """How far the resident memory of this process rises during a step; None where the system does not tell."""
    mark = Path("/proc/self/clear_refs")
    if sys.platform != "linux" or not os.access(mark, os.W_OK):
        return None
    # Memory that was freed, but is still held by the allocator, would hide what the step takes.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    mark.write_text("5", encoding="ascii")  # the high-water mark starts anew
    before = _status("VmRSS")
    step()
    return max(0, _status("VmHWM") - before)


def cuda_peak(step: Step, device: torch.device) -> int:
    """The peak of what torch's CUDA allocator hands out during a step."""
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    synchronise(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def _status(name: str) -> int:
    """One of the sizes in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's profiler announcing itself on stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  a file descriptor is what is needed
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
