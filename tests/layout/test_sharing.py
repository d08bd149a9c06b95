"""How matrices are shared out over ranks, and how parts are cut."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from stepwell.layout.parts import piece
from stepwell.layout.sharing import shared_out


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
