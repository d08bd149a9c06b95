"""timm, with torchvision or without."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import nn


@contextmanager
def timm_imported() -> Iterator[Any]:
    """Within this context timm can be imported, as it is given.

    timm imports torchvision, whose wheels load beside a torch with CUDA alone. Its models need of it the name of one
    class, to tell frozen norms from others, and of `timm.data`, which is made of torchvision, some constants. Where
    torchvision does not load, that is what they get; every line of the models is timm's own.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed")
    before = set(sys.modules)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules.update(_without_torchvision(Path(spec.origin).parent / "data"))
    try:
        import timm

        yield timm
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("timm", "torchvision"):
                del sys.modules[name]


def _without_torchvision(data: Path) -> dict[str, types.ModuleType]:
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc", "timm.data")
    modules = {name: types.ModuleType(name) for name in names}
    modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})
    spec = importlib.util.spec_from_file_location("timm.data.constants", data / "constants.py")
    constants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(constants)
    modules["timm.data"].__dict__.update(vars(constants), __path__=[str(data)], resolve_input_data_config=None)
    return modules
