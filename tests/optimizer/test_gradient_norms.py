"""Norms of gradients, the clip factor, and gradients that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer
from stepwell.optimizer.gradients import clip_factor, gradient_norms
from stepwell.rules import SGD, AdamW, Muon

ENGINES = ("reference", "foreach", "fused", "auto")

each_engine = pytest.mark.parametrize("engine", ENGINES)
either_way = pytest.mark.parametrize("with_kernel", [False, True], ids=["foreach", "kernel"])


def with_gradient(gradient: Tensor) -> Tensor:
    p = torch.zeros_like(gradient).requires_grad_()
    p.grad = gradient
    return p


def optimizer_of(*gradients: Tensor, **options: Any) -> Optimizer:
    return Optimizer([with_gradient(g) for g in gradients], SGD(lr=1.0), **options)


# ‖g‖


@either_way
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_norm_of_each_parameter(dtype: torch.dtype, with_kernel: bool) -> None:
    gradients = [torch.tensor([3.0, -4.0]), torch.tensor(2.0), torch.zeros(0), torch.full((2, 3), 0.5)]
    parameters = [with_gradient(g.to(dtype)) for g in gradients]
    norms = gradient_norms(parameters, with_kernel=with_kernel)
    assert [norms[id(p)] for p in parameters] == pytest.approx([5.0, 2.0, 0.0, math.sqrt(1.5)])


@either_way
def test_dtypes_side_by_side(with_kernel: bool) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32)
    parameters = [with_gradient(torch.full((4,), 2.0**index, dtype=dtype)) for index, dtype in enumerate(dtypes)]
    norms = gradient_norms(parameters, with_kernel=with_kernel)
    assert [norms[id(p)] for p in parameters] == pytest.approx([2.0 * 2.0**index for index in range(5)])


@either_way
def test_parameters_without_a_gradient_are_left_out(with_kernel: bool) -> None:
    missing, present = torch.zeros(2, requires_grad=True), with_gradient(torch.tensor([3.0]))
    assert gradient_norms([missing, present], with_kernel=with_kernel) == {id(present): pytest.approx(3.0)}
    assert gradient_norms([missing], with_kernel=with_kernel) == {}


@either_way
def test_sixteen_bits_are_summed_in_more(with_kernel: bool) -> None:
    # In bfloat16 a sum of ones stops at 256; in float16 squares of 300 are infinite.
    ones, large = torch.ones(10_000, dtype=torch.bfloat16), torch.full((4,), 300.0, dtype=torch.float16)
    parameters = [with_gradient(ones), with_gradient(large)]
    norms = gradient_norms(parameters, with_kernel=with_kernel)
    assert norms[id(parameters[0])] == pytest.approx(100, rel=1e-6)
    assert norms[id(parameters[1])] == pytest.approx(600, rel=1e-6)


@either_way
@pytest.mark.parametrize("size", [1e30, 3e38, 1e-30])
def test_squares_that_float32_cannot_hold(size: float, with_kernel: bool) -> None:
    p = with_gradient(torch.full((3,), size))
    expected = math.sqrt(3) * float(torch.tensor(size))
    assert gradient_norms([p], with_kernel=with_kernel)[id(p)] == pytest.approx(expected, rel=1e-5)


@either_way
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradients_are_seen(bad: float, with_kernel: bool) -> None:
    parameters = [with_gradient(torch.tensor([1.0, bad])), with_gradient(torch.ones(2))]
    norms = gradient_norms(parameters, with_kernel=with_kernel)
    assert not math.isfinite(norms[id(parameters[0])])
    assert norms[id(parameters[1])] == pytest.approx(math.sqrt(2.0))


@either_way
def test_complex_gradients_as_pairs_of_reals(with_kernel: bool) -> None:
    parameters = [with_gradient(torch.tensor([3.0 + 4.0j])), with_gradient(torch.tensor([1.0 + 2.0j]).conj())]
    norms = gradient_norms(parameters, with_kernel=with_kernel)
    assert [norms[id(p)] for p in parameters] == [pytest.approx(5.0), pytest.approx(math.sqrt(5.0))]


@either_way
def test_layouts_of_every_kind(with_kernel: bool) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    views = [base.t(), base[:, ::2], torch.tensor([1.0]).expand(5), base[1]]
    parameters = [torch.zeros(v.shape).requires_grad_() for v in views]
    for p, view in zip(parameters, views, strict=True):
        p.grad = view
    norms = gradient_norms(parameters, with_kernel=with_kernel)
    # The roots of Σ k² for k < 12; of 0, 2, 4, 6, 8, 10; of five ones; of 4, 5, 6, 7.
    assert [norms[id(p)] for p in parameters] == pytest.approx(
        [math.sqrt(total) for total in (506.0, 220.0, 5.0, 126.0)]
    )


# The factor


@pytest.mark.parametrize(
    ("norm", "limit", "factor"),
    [
        (5.0, 1.0, 1.0 / 5.000001),
        (2.0, 2.5, 1.0),
        (2.0, 2.0, 2.0 / 2.000001),  # as torch: just below 1 at the limit
        (0.0, 1.0, 1.0),
        (math.inf, 1.0, 0.0),
    ],
)
def test_the_clip_factor(norm: float, limit: float, factor: float) -> None:
    assert clip_factor(norm, limit) == pytest.approx(factor, rel=1e-15)


def test_the_clip_factor_of_nan_is_nan_as_torchs_is() -> None:
    assert math.isnan(clip_factor(math.nan, 1.0))


@each_engine
@pytest.mark.parametrize("size", [1e30, 1e-30, 1.0])
def test_clipping_gradients_of_any_size(size: float, engine: str) -> None:
    optimizer = optimizer_of(torch.tensor([3 * size, 0.0]), torch.tensor([-4 * size]), engine=engine, clip_norm=0.5)
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(5 * size, rel=1e-5)
    factor = min(1.0, 0.5 / (5 * size + 1e-6))
    weights = [p.tolist() for p in optimizer.param_groups[0]["params"]]
    assert weights[0] == pytest.approx([-3 * size * factor, 0.0], rel=1e-5)
    assert weights[1] == pytest.approx([4 * size * factor], rel=1e-5)


@each_engine
def test_finite_gradients_whose_squares_float64_cannot_hold_are_finite(engine: str) -> None:
    optimizer = optimizer_of(torch.full((2,), 1e200, dtype=torch.float64), engine=engine, on_nonfinite="raise")
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0].tolist() == [-1e200, -1e200]


@each_engine
def test_the_norm_of_several_dtypes_is_one(engine: str) -> None:
    gradients = [torch.full((1,), value, dtype=dtype) for value, dtype in
                 ((2.0, torch.float32), (4.0, torch.bfloat16), (5.0, torch.float64), (6.0, torch.float16))]  # fmt: skip
    optimizer = optimizer_of(*gradients, engine=engine, clip_norm=4.5)
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(9.0)
    weights = [p.item() for p in optimizer.param_groups[0]["params"]]
    assert weights == pytest.approx([-1.0, -2.0, -2.5, -3.0], rel=4e-3)


@pytest.mark.parametrize("matrices", [False, True], ids=["", "with Muon"])
def test_the_norm_is_taken_over_all_engines(matrices: bool) -> None:
    first, second = with_gradient(torch.eye(2)), with_gradient(torch.full((2,), math.sqrt(7.0)))
    groups: list[dict[str, Any]] = [{"params": [first], "rule": Muon() if matrices else AdamW()}, {"params": [second]}]
    optimizer = Optimizer(groups, SGD(lr=1.0), clip_norm=2.0)
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(4.0)  # √(2 + 14)
    assert second.tolist() == pytest.approx([-math.sqrt(7.0) / 2] * 2, rel=1e-5)


# Sparse gradients


@each_engine
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"on_nonfinite": "raise"}], ids=["", "clip", "raise"])
def test_sparse_gradients_are_refused(options: dict[str, Any], engine: str) -> None:
    dense, table = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    dense.grad = torch.ones(2, 2)
    table.grad = torch.eye(2).to_sparse()
    optimizer = Optimizer([{"params": [dense]}, {"params": [table], "name": "tables"}], SGD(), engine=engine, **options)
    with pytest.raises(
        ValueError,
        match=r"^the gradient of parameter 0 of group 'tables' is sparse_coo, and only dense gradients are supported; "
        r"make the layer with sparse=False, or put gradient.to_dense\(\) in its place$",
    ):
        optimizer.step()
    assert torch.equal(dense, torch.ones(2, 2))
    assert optimizer.state_dict()["state"] == {}


def test_sparse_gradients_are_refused_for_matrices_too() -> None:
    table = torch.nn.Embedding(4, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"^the gradient of parameter 'weight' is sparse_coo, and only dense"):
        Optimizer(table.named_parameters(), Muon()).step()
