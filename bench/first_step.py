"""What `python -m bench start` runs in fresh processes: `python -m bench.first_step [RULE]` prints seconds as JSON.

Nothing is imported before the clock runs but the standard library.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial

_MODULES = ("torch", "stepwell", "numba")


def seconds(work: Callable[[], object]) -> float:
    """How long this takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def imports() -> dict[str, float]:
    """Seconds to import torch, then stepwell, then Numba."""
    return {module: seconds(partial(importlib.import_module, module)) for module in _MODULES}


def first_step(name: str) -> dict[str, float | bool]:
    """Seconds to build an optimizer of this subject and to take its first two steps."""
    import torch

    from bench.material import Material
    from bench.start import shapes_for
    from bench.subjects import SUBJECTS
    from stepwell import Optimizer

    subject = SUBJECTS[name]
    material = Material(shapes_for(subject), subject.dtype, torch.device("cpu"))
    found: dict[str, float | bool] = {}
    start = time.perf_counter()
    optimizer = Optimizer(material.parameters, subject.rule, **dict(subject.storage))
    found["construct"] = time.perf_counter() - start
    found["first_step"] = seconds(optimizer.step)
    found["second_step"] = seconds(optimizer.step)
    found["needs_numba"] = "numba" in sys.modules
    return found


if __name__ == "__main__":
    print(json.dumps(first_step(sys.argv[1]) if len(sys.argv) > 1 else imports()))
