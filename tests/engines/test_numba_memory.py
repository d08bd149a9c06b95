"""What kernels ask of the compiler: without it they give the same numbers, and are slower."""

from __future__ import annotations

from typing import Any

import numba
import pytest

from stepwell.engines.fused import block_memory, memory


def compiled(function: Any) -> str:
    """A function of an address, in LLVM's language, once it is optimised."""
    return str(numba.cfunc(numba.types.void(numba.types.int64))(function).inspect_llvm())


@pytest.mark.parametrize("widest", [0, 512])
def test_the_widest_registers_are_asked_for_where_they_are_fast(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_WIDEST", widest)

    def function(address: Any) -> None:
        memory.widest_vectors()
        block_memory.halve_elements(address, 256)

    assert ('"prefer-vector-width"="512"' in compiled(function)) == (widest == 512)


def test_memory_is_asked_for_line_by_line() -> None:
    def fetching(address: Any) -> None:
        block_memory.fetch(address, 1024)

    assert "call void @llvm.prefetch" in compiled(fetching)


def test_no_address_is_wrong_to_ask_for() -> None:
    @numba.njit
    def fetching(address: Any) -> None:
        block_memory.fetch(address, 4096)

    fetching(8)
