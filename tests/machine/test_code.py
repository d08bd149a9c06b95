"""Kernels are written to the user's cache folder, compiled once, and loaded without Numba afterwards."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.machine import code

STEP = """
import sys, torch, stepwell
p = torch.nn.Parameter(torch.ones(5)); p.grad = torch.ones(5)
stepwell.Lion([p], lr=0.25).step()
assert p.tolist() == [0.75] * 5, p
print("numba" in sys.modules)
"""

# Rows, columns, and three phases. At the first step of a gradient of rank 1 the estimate is g² itself, so that each
# element moves by α = max(ε₂, RMS(θ))·ρ = 1·0.25.
STEP_OF_A_MATRIX = """
import sys, torch, stepwell
p = torch.nn.Parameter(torch.ones(3, 4))
p.grad = torch.outer(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 1.0, -1.0]))
stepwell.Adafactor([p], lr=0.25, engine="fused").step()
torch.testing.assert_close(p.detach(), 1 - 0.25 * p.grad.sign())
print("numba" in sys.modules)
"""

# Of functions that no processor has an instruction for: e¹·cos 0 + ln 1 = e.
STEP_OF_A_FUNCTION = """
import math, sys, torch, stepwell
from dataclasses import dataclass
from stepwell.algebra import cos, exp, log

@dataclass(frozen=True, kw_only=True)
class Curved(stepwell.Rule):
    lr: float = 0.5

    def direction(self, p, g, s, h):
        return exp(g) * cos(g - 1.0) + log(g), {}

p = torch.nn.Parameter(torch.zeros(300)); p.grad = torch.ones(300)
stepwell.Optimizer([p], Curved(), engine="fused").step()
torch.testing.assert_close(p.detach(), torch.full((300,), -0.5 * math.e))
print("numba" in sys.modules)
"""


def step_in_a_new_process(cache: Path, program: str = STEP) -> str:
    environment = {**os.environ, "STEPWELL_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_machine_code_is_kept_and_found_again(tmp_path: Path) -> None:
    assert step_in_a_new_process(tmp_path) == "True"
    (source,) = (tmp_path / "kernels").glob("Lion_update_*.py")
    assert "def phase0(p, g, exp_avg, size, c):" in source.read_text(encoding="utf-8")
    assert step_in_a_new_process(tmp_path) == "False"  # Numba was not even imported


def test_a_kernel_of_rows_and_columns_is_found_again(tmp_path: Path) -> None:
    assert step_in_a_new_process(tmp_path, STEP_OF_A_MATRIX) == "True"
    (source,) = (tmp_path / "kernels").glob("Adafactor_update_*.py")
    assert "column_sums" in source.read_text(encoding="utf-8")
    assert step_in_a_new_process(tmp_path, STEP_OF_A_MATRIX) == "False"


def test_a_kernel_that_calls_functions_is_found_again(tmp_path: Path) -> None:
    assert step_in_a_new_process(tmp_path, STEP_OF_A_FUNCTION) == "True"
    assert step_in_a_new_process(tmp_path, STEP_OF_A_FUNCTION) == "False"


@pytest.mark.parametrize(
    "line",
    [
        "declare void @numba_gil_ensure(ptr) local_unnamed_addr",
        "declare noalias ptr @NRT_Allocate(i64) local_unnamed_addr #1",
        "declare i8* @numba_unpickle(i8*, i32, i8* nocapture)",
        "declare { i32, ptr } @PyErr_Something(ptr captures(none))",
    ],
)
def test_no_kernel_needs_the_runtime(line: str) -> None:
    """Where one function is missing LLVM looks for no other: see `code._lacking`."""
    without = code._without_runtime(f"@PyExc_E = external global i8\n{line}\ndeclare float @expf(float)\n")
    assert without.splitlines() == [
        "@PyExc_E = weak global i8 zeroinitializer",
        f"define weak {line.removeprefix('declare ')} {{",
        "  call void @llvm.trap()",
        "  unreachable",
        "}",
        "declare float @expf(float)",
        "",
        "declare void @llvm.trap()",
    ]


def test_code_that_calls_what_is_not_there_is_made_anew(tmp_path: Path) -> None:
    step_in_a_new_process(tmp_path)
    (kept,) = (tmp_path / "kernels").glob("*.bin")
    names, _, binary = kept.read_bytes()[32:].partition(b"\n")
    changed = names + b" __svml_expf16\n" + binary
    kept.write_bytes(hashlib.sha256(changed).digest() + changed)
    assert step_in_a_new_process(tmp_path) == "True"


def test_damaged_machine_code_is_made_anew(tmp_path: Path) -> None:
    step_in_a_new_process(tmp_path)
    (kept,) = (tmp_path / "kernels").glob("*.bin")
    whole = kept.read_bytes()
    for damaged in (whole[:-100], whole[:40] + b"\0" + whole[41:], b""):
        kept.write_bytes(damaged)
        assert step_in_a_new_process(tmp_path) == "True"
        made = kept.read_bytes()  # in older Numba's code a constant is called by an address, another in each process
        assert len(made) == len(whole)
        assert hashlib.sha256(made[32:]).digest() == made[:32]


def test_a_numba_that_cannot_be_imported_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(RuntimeError, match=r"^a kernel has to be compiled, and Numba cannot be imported \(import of"):
        code._compile("kernel.py", "")


def test_a_numba_that_is_told_to_compile_nothing_after_its_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(RuntimeError, match="Numba's DISABLE_JIT is set; leave it unset, or take engine='foreach'"):
        code._compile("kernel.py", "")
