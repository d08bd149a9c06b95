"""Triton's compiler takes every kernel, for a GPU that need not be there: to PTX, and on to machine code."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.cases import DTYPES, PLAIN_CASES, Case, such_as
from conformance.storage import STORAGES, Kept
from engines.every_function import EveryFunction
from stepwell.algebra import square

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels that are interpreted are not compiled", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stepwell.algebra import triton_products
from stepwell.codecs import Plain, Storage, codecs_for
from stepwell.engines.fused import triton_memory
from stepwell.engines.fused.triton_engine import Triton
from stepwell.engines.fused.triton_kernels import OPTIONS, Kernel
from stepwell.engines.fused.triton_words import BLOCK
from stepwell.rules import AdamW

HOPPER = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
FUSED = such_as(lambda case: "fused" in case.engines)
# A rule of elements, one with a sum over each tensor, and those with rows, and with rows and columns.
FEW = [case for case in PLAIN_CASES if case.name in ("AdamW", "LAMB", "AdamMini", "Adafactor")]
MEMORY = {
    "chunks": "*i64", "table": "*i64", "sizes": "*i64", "scalars": "*fp64", "verdict": "*fp64", "sums": "*fp64",
    "kept": "*fp64", "hyper": "*fp64", "places": "*i64", "out": "*fp64", "settings": "*fp64", "scale": "*fp32",
    "found": "*fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(function: Any, compute: str = "float32", **compiled_in: Any) -> dict[str, Any]:
    """What the compiler makes of a function, stage by stage."""
    of_elements = {"float32": "*fp32", "float64": "*fp64"}[compute]
    names = list(inspect.signature(function.fn).parameters)
    signature = {name: "constexpr" if name.isupper() else MEMORY.get(name, of_elements) for name in names}
    constants = {name: compiled_in[name] for name in names if name.isupper()}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if not name.isupper()}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    stages: dict[str, Any] = triton.compile(source, target=HOPPER, options=OPTIONS).asm
    return stages


def kernels(case: Case, dtype: torch.dtype, shape: tuple[int, ...]) -> Kernel:
    """The kernels of a rule for parameters of this shape, all arrays of one dtype."""
    engine = Triton()
    program = engine.program(case.rule.fit(shape), stores_round=dtype.itemsize == 2)
    return engine.kernel(program, dict.fromkeys(program.arrays, Plain(dtype)))


@pytest.mark.parametrize("added", [False, True])
def test_symmetric_products_compile(added: bool) -> None:
    names = list(inspect.signature(triton_products._tile.fn).parameters)
    constants = {"HAS_X": added, "SIDE": triton_products.SIDE, "DEPTH": triton_products.DEPTH}
    kinds = {**dict.fromkeys(("left", "right", "x", "out"), "*bf16"), "x_factor": "fp32", "product_factor": "fp32"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(6)}
    source = ASTSource(fn=triton_products._tile, signature=signature, constexprs=constants, attrs=aligned)
    ptx = triton.compile(source, target=HOPPER, options={"num_warps": 8, "num_stages": 3}).asm["ptx"]
    assert "wgmma" in ptx  # the tensor cores'
    assert "bf16" in ptx
    assert set(re.findall(r"st\.global[\w.]*", ptx)) == {"st.global.v4.b32"}  # on both sides of the diagonal


def assert_compiles(kernel: Kernel, align: int = 16) -> dict[str, str]:
    """All functions of the kernel become machine code; gives their PTX."""
    found = {}
    for name, function in kernel.functions.items():
        stages = compiled(function, kernel.compute, ALIGN=align, ROWS=BLOCK // 256, COLUMNS=256)
        assert ".target sm_90" in stages["ptx"]
        assert stages["cubin"]
        found[name] = stages["ptx"]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_kernels_compile(case: Case, dtype: torch.dtype) -> None:
    phases = [ptx for name, ptx in assert_compiles(kernels(case, dtype, (4, 3))).items() if "phase" in name]
    for ptx in phases:  # numbers move in words of 16 bytes
        assert "ld.global.v4.b32" in ptx
        # What a rule adds and multiplies is rounded as it is written; the compiler's own sums of indices are integers.
        assert not re.search(r"fma\.rn\.f32", ptx)
    if dtype == torch.bfloat16:
        assert any("cvt.rn.bf16" in ptx for ptx in phases)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}-{dtype}")
        for case in FUSED
        for dtype in DTYPES
        if case in PLAIN_CASES or dtype == torch.float32
    ],
)
def test_all_kernels_compile(case: Case, dtype: torch.dtype) -> None:
    assert_compiles(kernels(case, dtype, (4, 3)))
    if case.rule.fit((4, 3)) is not case.rule.fit((5,)):
        assert_compiles(kernels(case, dtype, (5,)))


@pytest.mark.parametrize("kept", STORAGES, ids=str)
def test_kernels_of_every_storage_compile(kept: Kept) -> None:
    rule, shape = AdamW(), (100, 256)
    codecs = {**codecs_for(rule, shape, kept.dtype, Storage(kept.state_dtype, kept.master)), "g": Plain(kept.dtype)}
    engine = Triton()
    assert_compiles(engine.kernel(engine.program(rule, stores_round=True), codecs))


@pytest.mark.parametrize("observed", ["", "units"])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_blocks_are_known_by_number(bits: Any, observed: Any) -> None:
    rule, engine = AdamW(), Triton()
    codecs = {**codecs_for(rule, (100, 256), torch.float32, Storage(bits)), "g": Plain(torch.float32)}
    kernel = engine.kernel(engine.program(rule, stores_round=True, observed=observed), codecs)
    made = compiled(kernel.functions["phase0"], ALIGN=16, ROWS=BLOCK // 256, COLUMNS=256)["ttgir"]
    # Of each slot, in a tile; or in the loop over a run and in what remains.
    of_blocks = 2 if observed else 4
    assert len(re.findall(r"tt\.load .*tensor<4x!tt\.ptr<f32>", made)) == of_blocks


def test_an_observed_step_fits_into_registers(tmp_path: Path) -> None:
    engine = Triton()
    program = engine.program(AdamW(), observed="units")
    kernel = engine.kernel(program, dict.fromkeys(program.arrays, Plain(torch.float32)))
    path = tmp_path / "phase0.cubin"
    path.write_bytes(compiled(kernel.functions["phase0"], ALIGN=16, ROWS=BLOCK // 256, COLUMNS=256)["cubin"])
    told = subprocess.run([CUOBJDUMP, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    registers = int(re.search(r"REG:(\d+)", told)[1])  # type: ignore[index]
    assert registers <= 168  # three programs of 128 threads share an SM's 65,536


def test_kernels_for_tensors_that_begin_anywhere_compile() -> None:
    ptx = assert_compiles(kernels(FEW[0], torch.float32, (5,)), align=1)["phase0"]
    assert "v4" not in ptx


def test_sums_of_squares_and_verdicts_compile() -> None:
    kernel = Triton().total_kernel("sum of squares", square, torch.bfloat16)
    assert_compiles(kernel)
    flags = ("MEASURED", "CLIPPED", "SCALED", "FOUND", "SKIPPING")
    for given in (True, False):
        stages = compiled(triton_memory.judge, "float64", **dict.fromkeys(flags, given), BLOCK=1024)
        assert stages["cubin"]


def test_every_function_of_the_algebra_compiles() -> None:
    for dtype in (torch.float32, torch.float64):
        assert_compiles(kernels(Case("every function", EveryFunction()), dtype, (5,)))
