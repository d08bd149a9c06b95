"""Kernels run in torch's own threads where they can be had, and in a pool elsewhere."""

import subprocess
import sys
import threading

import pytest
import torch

import stepwell
from stepwell.machine import threads


def train(steps: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ps = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((700, 300), (5,), (1,))]
    optimizer = stepwell.LAMB(ps, lr=0.1, clip_norm=1.0)
    for _ in range(steps):
        for p in ps:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in ps]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch brings libgomp along on Linux only")
def test_torch_brings_its_threads_along() -> None:
    assert threads._openmp() is not None


def test_a_pool_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, set_threads: object) -> None:
    set_threads(1)  # type: ignore[operator]
    alone = train()
    set_threads(3)  # type: ignore[operator]
    together = train()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    pooled = train()
    for a, b, c in zip(alone, together, pooled, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize(
    ("sizes", "expected"), [([1], 1), ([64] * 20, 1), ([65_536], 1), ([70_000], 2), ([300_000], 4), ([768] * 300, 4)]
)
def test_as_many_threads_as_the_work_is_worth(
    sizes: list[int], expected: int, monkeypatch: pytest.MonkeyPatch, set_threads: object
) -> None:
    used: list[int] = []

    def count(run: threads.Run, frame: int, number: int) -> None:
        used.append(number)
        run(frame)

    monkeypatch.setattr("stepwell.engines.fused.engine.run_in_threads", count)
    set_threads(4)  # type: ignore[operator]
    ps = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    for p in ps:
        p.grad = torch.ones_like(p)
    stepwell.Lion(ps, engine="fused").step()
    assert used == [expected]


FORKED = """
import os, signal, torch, stepwell
torch.set_num_threads(2)
p = torch.nn.Parameter(torch.ones(300, 300)); p.grad = torch.ones(300, 300)
optimizer = stepwell.Lion([p], lr=0.25, engine="fused")
optimizer.step()
child = os.fork()
if child == 0:
    signal.alarm(60)  # torch's own operations would wait for threads for ever
    optimizer.step()
    optimizer.step()
    os._exit(0 if p[0, :3].tolist() == [0.25] * 3 and p[-1, -1] == 0.25 else 1)
print(os.waitpid(child, 0)[1], p[0, 0].item())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads of OpenMP")
def test_a_process_that_is_forked_after_a_step_steps_in_one_thread() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0.75"]
    assert done.stderr.count("kernels run in one here") == 1


def test_two_optimizers_in_two_threads() -> None:
    expected = train()
    found: list[list[torch.Tensor]] = []
    workers = [threading.Thread(target=lambda: found.append(train())) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 2
    for weights in found:
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
