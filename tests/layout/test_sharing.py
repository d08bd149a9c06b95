"""How matrices are shared out over ranks, and how parts are cut."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import stepwell
from layout.ranks import on_ranks
from stepwell import rules
from stepwell.engines.ranks.sharing import shared_out
from stepwell.layout.parts import piece


def test_the_costliest_first_to_the_rank_with_the_least_to_do() -> None:
    # Costs rows·cols·min: 2·2·2 = 8, 4·4·4 = 64, 4·3·3 = 36, and a stack of three 2×2: 24. In turn 64 → 0, 36 → 1,
    # 24 → 1 (36 < 64: now 60), 8 → 1 (60 < 64).
    assert shared_out([(2, 2), (4, 4), (4, 3), (3, 2, 2)], 2) == [1, 0, 1, 1]
    assert shared_out([(2, 2), (4, 4)], 1) == [0, 0]
    assert shared_out([], 3) == []


def test_equal_matrices_are_shared_equally() -> None:
    owners = shared_out([(8, 8)] * 12, 4)
    assert sorted(owners.count(rank) for rank in range(4)) == [3, 3, 3, 3]


@given(size=st.integers(0, 50), ranks=st.integers(1, 9))
def test_pieces_are_those_of_torch_chunk(size: int, ranks: int) -> None:
    whole = torch.arange(size)
    chunks = [chunk.tolist() for chunk in whole.chunk(ranks)] if size else []
    pieces = [whole.narrow(0, *piece(size, ranks, rank)).tolist() for rank in range(ranks)]
    assert pieces == chunks + [[]] * (ranks - len(chunks))


def scalar_slots(way: str) -> list[tuple[float, float]]:
    """The largest rate and the sum of the weights of steps, of a matrix and of a stack that is cut between its
    matrices: one owner works the first out, every rank its part of the second."""
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(8, 6, generator=generator), torch.randn(3, 4, 6, generator=generator)]
    if way == "cut":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        plain = [distribute_tensor(each, mesh, [Shard(0)]) for each in plain]
    parameters = [nn.Parameter(each) for each in plain]
    optimizer = stepwell.Optimizer(parameters, stepwell.schedule_free(rules.Muon(lr=0.01)))
    for _ in range(4):
        for p in parameters:
            p.grad = p.detach() * 0.5
        optimizer.step()
    return [(optimizer.state[p]["lr_max"], optimizer.state[p]["weight_sum"]) for p in parameters]


def test_scalar_slots_of_stacks_beside_shared_out_matrices_stay() -> None:
    expected = [(0.01, pytest.approx(4 * 0.01**2))] * 2  # a step weighs the square of its rate
    for found in [scalar_slots("one"), *on_ranks(scalar_slots, 2, "cut")]:
        assert found == expected
