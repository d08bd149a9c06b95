"""`python -m bench ranks`: a step of a rule of matrices on several ranks, beside the same step on one of them.

Every rank is a process with one thread, on this machine; they talk over gloo. The ranks hold the same matrices three
times: whole on the first, which steps them alone while the others wait, in parts as FSDP2 cuts them, and whole on all
with the state in parts. The first reads the clock, alone and together in turn, and together when the last is done.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

import stepwell
from bench.material import Material
from bench.records import RanksRow
from bench.shapes import HIDDEN, Shapes
from bench.subjects import SUBJECTS, Subject
from bench.turns import Timing, timed

RANKS = 2
RULES = ("muon",)
FSDP2, STATE = "FSDP2", "DDP, shard_state"
_CPU = torch.device("cpu")
# Above what other orders of adding make, far below what a forgotten part would.
_TOLERANCE = 1e-3


def measure(rounds: int, shapes: Shapes = HIDDEN[0], ranks: int = RANKS) -> Iterator[RanksRow]:
    """A row for each rule and each way to lie on many ranks."""
    for subject in (SUBJECTS[name] for name in RULES):
        for way in (FSDP2, STATE):
            alone, together = _on_ranks(ranks, subject, shapes, way, rounds)
            yield RanksRow(subject.title, shapes.title, shapes.parameters, way, ranks, alone, together)


def _on_ranks(ranks: int, subject: Subject, shapes: Shapes, way: str, rounds: int) -> tuple[Timing, Timing]:
    """The times of a step alone, and of one together."""
    with tempfile.TemporaryDirectory(prefix="stepwell-bench-") as name:
        folder = Path(name)
        start_processes(_rank, (ranks, folder, subject, shapes, way, rounds), nprocs=ranks, start_method="spawn")  # type: ignore[no-untyped-call]
        alone, together = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    return Timing(alone[0], tuple(alone[1:])), Timing(together[0], tuple(together[1:]))


def _rank(rank: int, ranks: int, folder: Path, subject: Subject, shapes: Shapes, way: str, rounds: int) -> None:
    warnings.filterwarnings("ignore")  # torch's own, of its experimental parts
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        times = _in_turn(subject, shapes, way, rounds)
        if rank == 0:
            (folder / "times.json").write_text(json.dumps(times), encoding="utf-8")
        dist.barrier()  # none leaves while another may still ask it
    finally:
        dist.destroy_process_group()
    # FSDP keeps threads of gloo, which abort where they let go of a tensor as Python ends (pytorch issue 190489).
    os._exit(0)


def _in_turn(subject: Subject, shapes: Shapes, way: str, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds alone and together: of the first step, and for each round the mean of a cycle's."""
    whole = Material(shapes, torch.float32, _CPU).parameters
    held = Material(shapes, torch.float32, _CPU).parameters if way == STATE else _in_parts(shapes)
    alone_on_first = stepwell.Optimizer(whole, subject.rule)
    together = stepwell.Optimizer(held, subject.rule, shard_state=way == STATE)

    def step_alone() -> None:
        if dist.get_rank() == 0:
            alone_on_first.step()

    def step_together() -> None:
        together.step()
        dist.barrier()

    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for found, step in zip(times, (step_alone, step_together), strict=True):
            dist.barrier()
            found.append(1e3 * _each(step, subject.cycle if turn else 1))  # the first of all may compile
    _check_same(whole, held, subject)
    return times


def _each(step: Callable[[], None], count: int) -> float:
    return sum(timed(step, _CPU) for _ in range(count)) / count


def _in_parts(shapes: Shapes) -> list[nn.Parameter]:
    """The matrices with their gradients, each rank with its rows of each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    made = []
    for p in Material(shapes, torch.float32, _CPU).parameters:
        assert p.grad is not None
        cut = nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)]))
        cut.grad = distribute_tensor(p.grad, mesh, [Shard(0)])
        made.append(cut)
    return made


def _check_same(alone: Sequence[Tensor], together: Sequence[Tensor], subject: Subject) -> None:
    """Raise RuntimeError where the weights on many ranks have moved elsewhere than those on one."""
    for one, many in zip(alone, together, strict=True):
        found = many.full_tensor() if hasattr(many, "full_tensor") else many
        if dist.get_rank() == 0 and (off := float((found - one).norm() / one.norm())) > _TOLERANCE:
            raise RuntimeError(f"{subject.title}: weights on many ranks are off by {off:.1e} of their norm")
