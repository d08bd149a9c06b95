"""A stand-in for a CUDA graph where there is no GPU: what is asked of the device is kept, and done at each replay."""

from __future__ import annotations

from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Kept:
    """A Triton function whose launches are kept."""

    def __init__(self, function: Any, asked: list[Any]) -> None:
        self._function, self._asked = function, asked

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self._asked.append(lambda: self._function[grid](*args, **kwargs))


class Graph(TorchDispatchMode):
    """Within this context kernels are not run but kept. So are torch's operations, which a capture would not do either:
    here new tensors are worked out at once too, so that there are some to hand on.

    Attributes:
        launched: the kernels that are kept, and the names of their functions.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._context = monkeypatch.context()
        self._asked: list[Any] = []
        self.launched: list[tuple[Any, str]] = []

    def __enter__(self) -> Self:
        from stepwell.engines import direct
        from stepwell.engines.fused import triton_engine, triton_kernels, triton_launch, triton_tables, triton_verdict
        from stepwell.optimizer import batching, verdicts

        patch = self._context.__enter__()
        launch = triton_kernels.Kernel.launch

        def keep(kernel: Any, name: str, programs: int, memory: Any, **compiled_in: int) -> None:
            kept = dict(memory)
            self.launched.append((kernel, name))
            self._asked.append(lambda: launch(kernel, name, programs, kept, **compiled_in))

        patch.setattr(triton_kernels.Kernel, "launch", keep)
        patch.setattr(triton_verdict, "judge", _Kept(triton_verdict.judge, self._asked))
        for module in (batching, verdicts, direct, triton_engine, triton_launch, triton_tables):
            patch.setattr(module, "capturing", lambda _: True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._context.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        if function._schema.is_mutable and isinstance(arguments[0], (Tensor, list)):
            self._asked.append(lambda: function(*arguments, **(kwargs or {})))
            return arguments[0] if isinstance(arguments[0], Tensor) else None
        result = function(*arguments, **(kwargs or {}))
        made = result if isinstance(result, tuple) else (result,)
        if function.is_view or not all(isinstance(each, Tensor) for each in made) or "empty" in str(function):
            return result

        def again() -> None:
            new = function(*arguments, **(kwargs or {}))
            for old, each in zip(made, new if isinstance(new, tuple) else (new,), strict=True):
                if each is not old:
                    old.copy_(each)

        self._asked.append(again)
        return result

    def replay(self) -> None:
        """Do all that was asked, once more."""
        with torch.no_grad():
            for each in self._asked:
                each()
