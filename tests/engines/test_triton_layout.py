"""How tensors are cut for Triton's programs: every element once, and every sum in a place of its own."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.engines.fused.triton_layout import FEWEST, MOST, layout_of
from stepwell.engines.fused.triton_words import CHUNK, TENSOR, TILE

CPU = torch.device("cpu")
SHAPES = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(0, 20_000)),
        st.tuples(st.integers(0, 120), st.integers(0, 300)),
        st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=5,
).map(lambda shapes: tuple(map(torch.Size, shapes)))


@settings(deadline=None, max_examples=40)
@given(SHAPES)
def test_runs_hold_every_element_once(shapes: tuple[torch.Size, ...]) -> None:
    layout = layout_of(shapes, CPU, in_rows=False)
    (part,) = layout.parts
    ends = [0] * len(shapes)
    order = []
    for owner, start, size in part.chunks.tolist():
        assert start == ends[owner]
        assert start % 16 == 0  # it begins at a word
        assert 0 < size <= MOST
        ends[owner] += size
        order.append(owner)
    assert ends == [shape.numel() for shape in shapes]
    assert layout.chunks == len(order)
    for owner, fields in enumerate(layout.sizes.tolist()):
        sizes = dict(zip(TENSOR, fields, strict=True))
        assert sizes["elements"] == shapes[owner].numel()
        assert order[sizes["first_chunk"] : sizes["first_chunk"] + sizes["parts"]] == [owner] * order.count(owner)
    assert CHUNK == ("owner", "start", "size")


@settings(deadline=None, max_examples=40)
@given(SHAPES)
def test_tiles_hold_every_element_once(shapes: tuple[torch.Size, ...]) -> None:
    layout = layout_of(shapes, CPU, in_rows=True)
    sizes = [dict(zip(TENSOR, fields, strict=True)) for fields in layout.sizes.tolist()]
    seen, order = Counter[tuple[int, int]](), []
    row_sums, column_sums = Counter[int](), Counter[int]()
    for part in layout.parts:
        assert part.first == len(order)
        for fields in part.chunks.tolist():
            tile = dict(zip(TILE, fields, strict=True))
            owner, of = tile["owner"], sizes[tile["owner"]]
            columns = range(tile["at"], min(tile["at"] + part.columns, tile["columns"]))
            lines = range(tile["line"], tile["line"] + tile["lines"])
            seen.update((owner, line * of["columns"] + column) for line in lines for column in columns)
            beside, below = tile["at"] // part.columns, (tile["column_sum"] - of["column_sum"]) // of["columns"]
            assert tile["row"] - of["row"] == tile["line"]
            assert tile["column"] - of["column"] == tile["at"]
            assert tile["row_sum"] == of["row_sum"] + beside * of["rows"] + tile["line"]
            assert tile["column_sum"] == of["column_sum"] + below * of["columns"] + tile["at"]
            assert beside < of["beside"]
            assert below < of["below"]
            row_sums.update(tile["row_sum"] + line for line in range(tile["lines"]))
            column_sums.update(tile["column_sum"] + column for column in range(len(columns)))
            order.append(owner)
    assert seen == {(owner, i): 1 for owner, shape in enumerate(shapes) for i in range(shape.numel())}
    assert set(row_sums) <= set(range(layout.row_sums))
    assert set(column_sums) <= set(range(layout.column_sums))
    assert set(row_sums.values()) | set(column_sums.values()) <= {1}  # no two tiles write the same sum
    for owner, of in enumerate(sizes):
        assert order[of["first_chunk"] : of["first_chunk"] + of["parts"]] == [owner] * order.count(owner)


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        (1, FEWEST),
        (768_000, FEWEST),
        (124_439_808, 16_384),  # 124,439,808 / 8,192 = 15,190, and the next power of two
        (1_315_723_264, MOST),
    ],
)
def test_chunks_grow_with_the_model(elements: int, size: int) -> None:
    (part,) = layout_of((torch.Size((elements,)),), CPU, in_rows=False).parts
    assert len(part.chunks) == -(-elements // size)


def test_narrow_matrices_get_narrow_tiles() -> None:
    shapes = tuple(map(torch.Size, ((5, 3), (7, 768), (64, 3, 3, 3), (9, 17), (2, 1))))
    parts = layout_of(shapes, CPU, in_rows=True).parts
    assert [(part.columns, part.rows) for part in parts] == [(4, 256), (32, 32), (256, 4)]
    assert [part.aligned for part in parts] == [False, False, True]
