"""The machine and the software that a result belongs to."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

import stepwell


@dataclass(frozen=True)
class Machine:
    """Where and when a result was measured."""

    processor: str
    cores: int
    threads: int
    instructions: str
    device: str
    system: str
    python: str
    torch: str
    numba: str
    stepwell: str
    date: str
    triton: str = ""  # where the device is a GPU

    @property
    def slug(self) -> str:
        """A name for files: the device and, for a CPU, its cores and instructions."""
        of_a_cpu = f"{self.processor} {self.cores} cores {self.instructions}"
        name = of_a_cpu if self.device == self.processor else self.device
        return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")

    @property
    def title(self) -> str:
        """One line that names the machine."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        host = f"{self.processor}, {self.cores} cores, {threads}, {self.instructions}"
        return host if self.device == self.processor else f"{self.device} ({host})"


def this_machine(device: torch.device) -> Machine:
    """The machine that this process runs on."""
    processor = _processor()
    return Machine(
        processor=processor,
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        numba=importlib.metadata.version("numba"),
        stepwell=stepwell.__version__,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        triton=importlib.metadata.version("triton") if device.type == "cuda" else "",
    )


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", described.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
