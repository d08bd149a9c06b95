from __future__ import annotations

import torch

from bench.shapes import (
    GPT2,
    HIDDEN,
    LARGE,
    SHAPES,
    SMALL,
    SQUARE,
    THOUSAND,
    Shapes,
    bfloat16_rate,
    hidden_matrices,
    newton_schulz_work,
)


def test_gpt2_small_is_the_published_model() -> None:
    assert len(GPT2.shapes) == 148
    assert GPT2.parameters == 124_439_808


def test_the_other_shapes() -> None:
    assert (len(SMALL.shapes), SMALL.parameters) == (300, 230_400)
    assert SQUARE.shapes == ((4096, 4096),)


def test_what_only_a_gpu_gets_by_default() -> None:
    # 50,257 and 2,048 embeddings of 2,048, 24 layers of 12·2,048² + 13·2,048, and a norm.
    assert LARGE.parameters == 52_305 * 2048 + 24 * (12 * 2048**2 + 13 * 2048) + 2 * 2048 == 1_315_723_264
    assert (len(THOUSAND.shapes), THOUSAND.parameters) == (1000, 768_000)
    assert [name for name, shapes in SHAPES.items() if "cpu" not in shapes.devices] == ["large", "thousand"]


def test_hidden_matrices_are_of_the_sides_of_gpt2() -> None:
    assert HIDDEN[0].shapes == ((768, 768),) * 8 + ((768, 3072),) * 4
    assert sorted(HIDDEN[1].shapes) == sorted({s for s in GPT2.shapes[2:] if len(s) == 2})
    assert SHAPES["hidden"] is HIDDEN[0]


def test_newton_schulz_work_of_one_matrix() -> None:
    # XXᵀ takes 2·2·2·3 = 24 operations, its square 2·2³ = 16, the product with X 24: 64 an iteration.
    assert newton_schulz_work(Shapes("one", "one", ((3, 2),)), steps=5) == 5 * 64


def test_the_list_of_matrices_goes_from_much_work_to_little() -> None:
    work = [newton_schulz_work(s) for s in HIDDEN]
    assert work == sorted(work, reverse=True)


def test_all_hidden_matrices_where_products_are_fast() -> None:
    assert hidden_matrices(seconds=1.0, rate=1e15) == (HIDDEN[0], "")


def test_fewer_where_products_are_slow_and_a_note_says_so() -> None:
    # Four matrices of 256 × 256 take 4 · 5 · 6 · 256³ = 2.01e9 operations; 8 of 768 × 768 take 8 · 5 · 6 · 768³ =
    # 1.087e11, and 4 of 768 × 3072 with products four times as long 4 · 5 · (4 · 4 + 2) · 768³ = 1.631e11.
    chosen, note = hidden_matrices(seconds=2.1, rate=1e9)
    assert chosen is HIDDEN[4]
    assert note == (
        "4 matrices of 256 × 256 stand for 8 matrices of 768 × 768 and 4 of 768 × 3072: bfloat16 products run at "
        "1 GFLOP/s here, so that a step over all of them would take a peer 272 s"
    )
    assert hidden_matrices(seconds=0.0, rate=1e9)[0] is HIDDEN[-1]


def test_the_rate_of_products_is_measured() -> None:
    assert bfloat16_rate(torch.device("cpu")) > 0
