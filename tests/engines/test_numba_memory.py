"""What kernels ask of the compiler: without it they give the same numbers, and are slower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import pytest
import torch

from stepwell import Optimizer, Rule
from stepwell.algebra import mean
from stepwell.engines.fused import block_memory, stored
from stepwell.engines.fused.numba_words import array
from stepwell.machine import memory
from stepwell.rules.registry import _RULES


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
        memory.fetch(address, 1024)

    assert "call void @llvm.prefetch" in compiled(fetching)


def test_no_address_is_wrong_to_ask_for() -> None:
    @numba.njit
    def fetching(address: Any) -> None:
        memory.fetch(address, 4096)

    fetching(8)


def test_no_slot_is_called_as_what_a_kernel_uses() -> None:
    functions = [name for module in (memory, stored, block_memory) for name in vars(module) if not name.startswith("_")]
    made = ["m_codes", "m_share", "m_scale", "m_numbers", "m_", "largest_m", "lower0", "word1", "pairs", "min"]
    made += ["at", "size", "start", "row", "lines", "width", "r", "r12", "sum3", "len", "sums", "column_sums"]
    assert {name: array(name) for name in (*functions, *made)} == {n: f"{n}_slot" for n in (*functions, *made)}
    assert [array(name) for name in ("p", "g", "m", "exp_avg", "momentum_buffer", "z")] == [
        "p", "g", "m", "exp_avg", "momentum_buffer", "z",
    ]  # fmt: skip


class Clashing(Rule, abstract=True):
    """Slots with names that a kernel uses for itself."""

    acts_on = "tensors"
    slots = ("m", "m_share", "largest_m", "least", "pair_of", "m_", "at", "size", "r1", "len", "sums")

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return p - h.lr * g / mean(g), {name: value + g for name, value in vars(s).items() if name != "step"}


@pytest.mark.parametrize("storage", [{"state_dtype": "8bit"}, {"state_dtype": "bfloat16", "master": "stochastic"}])
def test_a_rule_whose_slots_are_called_so(storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.bfloat16 if "master" in storage else torch.float32
    p = torch.nn.Parameter(torch.ones(64, 64, dtype=dtype))
    p.grad = torch.ones_like(p)
    monkeypatch.setitem(_RULES, "clashing", Clashing)
    optimizer = Optimizer([p], Clashing(lr=0.25), engine="fused", **storage)
    optimizer.step()
    assert bool((p == 0.75).all())
    saved = optimizer.state_dict()["state"][0]
    assert {name for name in saved if not name.endswith("_scale")} == {"step", *Clashing.slots}
