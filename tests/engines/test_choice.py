"""Which engine runs where, and what is said of a fallback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stepwell.engines import choice
from stepwell.engines.choice import engine_for
from stepwell.rules import AdamW, Muon


@pytest.fixture(autouse=True)
def _nothing_has_been_said() -> Iterator[None]:
    for forget in (choice._load.cache_clear, choice._say_fallback.cache_clear):
        forget()
    yield
    for forget in (choice._load.cache_clear, choice._say_fallback.cache_clear):
        forget()


def weight_on(device: str) -> Any:
    """What the choice sees of a weight on a device that need not be there."""
    return SimpleNamespace(
        device=torch.device(device), dtype=torch.float32, shape=torch.Size((4, 3)), stride=lambda: (3, 1), ndim=2
    )


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_where_nothing_is_compiled_foreach_runs_which_is_said_once(
    device: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        engines = [engine_for("auto", AdamW(), weight_on(device)) for _ in range(3)]
    assert {engine.name for engine in engines} == {"foreach"}
    assert [record.message for record in caplog.records] == [
        f"the foreach engine runs torch.float32 parameters on {device}, not the fused one: it serves the devices 'cpu' "
        "and 'cuda'"
    ]


def test_a_gpu_without_triton(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        engines = [engine_for("auto", AdamW(), weight_on("cuda")) for _ in range(3)]
    assert {engine.name for engine in engines} == {"foreach"}
    (record,) = caplog.records
    assert "on cuda, not the fused one: it cannot be loaded (" in record.message
    with pytest.raises(
        ValueError,
        match=r"^engine='fused' cannot run a torch.float32 parameter of shape \(4, 3\) .* on cuda: it cannot be loaded",
    ):
        engine_for("fused", AdamW(), weight_on("cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_driver() -> None:
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match=r"it cannot be used \(Triton cannot start: "):
        engine_for("fused", AdamW(), weight_on("cuda"))


def test_a_gpu_that_triton_does_not_compile_for(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    from stepwell.engines.fused.triton_engine import problem

    driver = SimpleNamespace(get_current_target=lambda: SimpleNamespace(backend="cuda"))
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=driver))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert problem() == "Triton needs a GPU of compute capability 8.0, this one has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert problem() == ""


WITHOUT_NUMBA = """
import sys
sys.modules[sys.argv[1]] = None
import torch
import stepwell
p = torch.nn.Parameter(torch.ones(3))
p.grad = torch.ones(3)
optimizer = stepwell.SGD([p], lr=0.5, clip_norm=10.0)
for _ in range(2):
    optimizer.step()
print(p.tolist())
try:
    stepwell.SGD([p], lr=0.5, engine="fused")
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "reason"), [("llvmlite", "import of llvmlite halted"), ("numba", "Numba is not installed")]
)
def test_a_cpu_without_numba(package: str, reason: str) -> None:
    command = [sys.executable, "-c", WITHOUT_NUMBA, package]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, refused = ran.stdout.splitlines()
    assert weights == "[0.0, 0.0, 0.0]"
    assert f"on cpu: it cannot be loaded ({reason}" in refused
    (said,) = ran.stderr.splitlines()
    assert said.startswith("the foreach engine runs torch.float32 parameters on cpu, not the fused one: it cannot be")


NUMBA_THAT_FAILS = """
import sys, torch, stepwell
sys.path.insert(0, sys.argv[1])
p, q = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((3,), (512, 256)))
p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
stepwell.SGD([p], lr=0.5, clip_norm=10.0).step()
stepwell.Muon([q], lr=0.5).step()
print(p.tolist(), bool(q.isfinite().all()))
"""


def test_a_numba_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text('raise ImportError("Numba needs NumPy 2.3 or less")')
    environment = {**os.environ, "STEPWELL_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", NUMBA_THAT_FAILS, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split("] ") == ["[0.5, 0.5, 0.5", "True\n"]
    said = ran.stderr.splitlines()
    assert [line.partition("(")[2] for line in said] == ["Numba cannot be imported: Numba needs NumPy 2.3 or less)"]


def test_a_numba_that_is_told_to_compile_nothing() -> None:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", WITHOUT_NUMBA, "nothing"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    weights, refused = ran.stdout.splitlines()
    assert weights == "[0.0, 0.0, 0.0]"
    assert refused.endswith(" on cpu: it cannot be loaded (NUMBA_DISABLE_JIT is set); use engine='auto'")
    (said,) = ran.stderr.splitlines()
    assert said.endswith("not the fused one: it cannot be loaded (NUMBA_DISABLE_JIT is set)")


@pytest.mark.parametrize("given", ["0", "", "no"])
def test_a_numba_that_is_told_nothing_of_the_kind(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", given)  # Numba goes by a number, and takes anything else for 0
    assert engine_for("auto", AdamW(), torch.ones(3)).name == "fused"


def test_rules_of_matrices_have_an_engine_of_their_own() -> None:
    assert {engine_for(name, Muon(), torch.ones(4, 3)).name for name in ("auto", "foreach", "fused")} == {"matrices"}
    assert engine_for("reference", Muon(), torch.ones(4, 3)).name == "reference"
