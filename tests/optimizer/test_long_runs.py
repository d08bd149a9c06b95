"""Several threads, forks, and a thousand steps: what a training meets that a few steps in a test do not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from conformance.cases import assert_same_bits
from conformance.training import parameter, parameters_of, slots_of
from stepwell import Optimizer, rules

KINDS: dict[str, tuple[Any, torch.dtype, dict[str, Any]]] = {
    "fused": (rules.AdamW(), torch.float32, {"clip_norm": 1.0, "on_nonfinite": "skip"}),
    "foreach": (rules.LAMB(), torch.float32, {"engine": "foreach"}),
    "matrices": (rules.Muon(), torch.float32, {"clip_norm": 1.0}),
    "stored": (rules.AdamW(), torch.bfloat16, {"state_dtype": "8bit", "master": "stochastic"}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, shape: tuple[int, ...] = (300, 400), count: int = 2, seed: int = 0) -> Optimizer:
    rule, dtype, options = KINDS[kind]
    return Optimizer([parameter(shape, dtype, seed + index) for index in range(count)], rule, **options)


def train(optimizer: Optimizer, steps: int, seed: int = 0) -> None:
    """Steps with gradients of their own, in tensors that are new each time."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in parameters_in(optimizer):
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


def parameters_in(optimizer: Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


# Threads


@kinds
def test_two_optimizers_in_two_threads(kind: str, set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    expected = [made(kind, seed=seed) for seed in (0, 10)]
    for seed, optimizer in enumerate(expected):
        train(optimizer, 8, seed)
    found = [made(kind, seed=seed) for seed in (0, 10)]
    start = threading.Barrier(2)
    failed: list[BaseException] = []

    def work(optimizer: Optimizer, seed: int) -> None:
        try:
            torch.set_num_threads(2)
            start.wait()
            train(optimizer, 8, seed)
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(one, seed)) for seed, one in enumerate(found)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
    for ours, alone in zip(found, expected, strict=True):
        assert_same_bits(parameters_of(ours), parameters_of(alone))
        assert_same_bits(slots_of(ours), slots_of(alone))


# Forks

FORKED = """
import os, torch, stepwell
from torch.utils.data import DataLoader

torch.set_num_threads(2)

def trained(workers):
    torch.manual_seed(0)
    model = torch.nn.Linear(512, 512)
    optimizer = stepwell.AdamW(model.parameters(), lr=1e-2, clip_norm=1.0)
    rows, way = torch.randn(16, 512), "fork" if workers else None
    for epoch in range(2):  # workers are forked anew for each epoch, after steps
        for batch in DataLoader(rows, batch_size=4, num_workers=workers, multiprocessing_context=way):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    return model, optimizer

(plain, _), (model, optimizer) = trained(0), trained(2)
assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters()))

child = os.fork()  # which trains on by itself, on one thread, as workers of torch's have
if child == 0:
    torch.set_num_threads(1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    os._exit(0 if optimizer.state[model.weight]["step"] == 9 else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert optimizer.state[model.weight]["step"] == 8
optimizer.step()
print("went on")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_workers_that_are_forked_after_a_step() -> None:
    ran = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "went on"), ran.stderr


# A thousand steps


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> tuple[int, int, int]:
    """Tensors and pieces of memory that Python holds, and open files."""
    gc.collect()
    tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
    return tensors, sys.getallocatedblocks(), len(list(Path("/proc/self/fd").iterdir()))


def assert_nothing_leaks(step: Callable[[int], None]) -> None:
    """A thousand steps, of which the first two hundred may still fill caches."""
    for number in range(200):
        step(number)
    before, memory = held(), resident()
    for number in range(200, 1000):
        step(number)
    grown, after = resident() - memory, held()
    assert after[0] == before[0]
    assert after[1] - before[1] < 400  # less than a piece in two steps: the smallest leak has one in each
    assert after[2] == before[2]
    assert grown < 8 << 20  # of 15 MB of gradients and more that have come and gone


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@kinds
def test_a_thousand_steps_leak_nothing(kind: str) -> None:
    optimizer = made(kind, (64, 72) if kind == "matrices" else (200, 256), count=1)
    (p,) = parameters_in(optimizer)

    def step(number: int) -> None:
        p.grad = torch.full_like(p, 1e-3 * (number % 7))
        optimizer.param_groups[0]["lr"] = 1e-4 / (1 + number)
        optimizer.step()
        if number % 100 == 0:
            optimizer.state_dict()

    assert_nothing_leaks(step)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("offloaded", [False, True], ids=["", "offloaded"])
def test_a_thousand_steps_in_backward_leak_nothing(offloaded: bool) -> None:
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(4)))
    optimizer: Optimizer = stepwell.AdamW(model.parameters(), lr=1e-4, clip_norm=1.0)
    if offloaded:
        optimizer = stepwell.offload(optimizer)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=1 << 16)
    x = torch.randn(4, 128)

    def step(_: int) -> None:
        model(x).square().mean().backward()
        optimizer.step()

    assert_nothing_leaks(step)
