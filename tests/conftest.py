"""What the whole test suite shares. Its folder is on the path, so that tests can import `conformance.cases`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from stepwell.algebra import tensors
from stepwell.engines import choice

# No test fails for a machine that is busy. Examples are new at each run, but for CI, which judges a change, not luck.
settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """In the process that `make test-triton` starts, what is fused on a CPU are Triton's kernels, interpreted."""
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401 - where TensorFlow, with an LLVM of its own, was loaded before it, it crashes
    if os.environ.get("TRITON_INTERPRET") == "1":
        from stepwell.engines.fused.triton_engine import Triton

        engine = Triton("cpu")
        choice._load = lambda device: (engine, "") if device == "cpu" else (None, "it is interpreted on a CPU")
        # The interpreter works with NumPy, which warns of 0/0 in lanes outside a tensor.
        config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and threads that wait for each other make a busy machine crawl."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _as_wide_as_a_page() -> None:
    """Tests that run side by side are told how wide the terminal is, which tables would keep to."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture
def float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are multiplied in float32 where precision is not what counts, as on a CPU that is not faster in
    bfloat16: for figures that depend on it."""
    monkeypatch.setattr(tensors, "_bfloat16_is_fast", lambda _: False)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """`torch.set_num_threads`, put back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
