"""Parameters of every shape and layout in memory, and complex ones."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from conformance.cases import (
    CASES,
    PLAIN_CASES,
    Case,
    acting_on,
    assert_near,
    assert_same_bits,
    rows,
    rows_and_engines,
    such_as,
)
from conformance.training import (
    assert_slots_are_as_declared,
    give_gradients,
    parameter,
    parameters_of,
    slots_of,
    train,
)
from stepwell import Optimizer


def _transposed(values: Tensor) -> Tensor:
    return values.mT.contiguous().mT


def _sliced(values: Tensor) -> Tensor:
    wide = torch.full((*values.shape[:-1], 2 * values.shape[-1]), 7.0, dtype=values.dtype)
    view = wide[..., ::2]
    view.copy_(values)
    return view


def _in_a_larger_tensor(values: Tensor) -> Tensor:
    rows = torch.full((values.shape[0] + 2, *values.shape[1:]), 7.0, dtype=values.dtype)
    view = rows[1:-1]
    view.copy_(values)
    return view


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "with gaps": _sliced,
    "at an offset": _in_a_larger_tensor,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@rows_and_engines(CASES)
def test_how_a_parameter_lies_in_memory_makes_no_difference(case: Case, engine: str, layout: str) -> None:
    refused = layout == "with gaps" or (layout == "transposed" and case.sees_rows)
    engine = "auto" if engine == "fused" and refused else engine
    plain = [parameter((6, 4), torch.float64, seed) for seed in range(2)]
    laid_out = [LAYOUTS[layout](p.detach()).requires_grad_() for p in plain]
    train(Optimizer(plain, case.rule, engine=engine), plain)
    optimizer = Optimizer(laid_out, case.rule, engine=engine)
    train(optimizer, laid_out)
    assert_near(parameters_of(optimizer), [p.detach() for p in plain], 1e-13)
    assert_slots_are_as_declared(optimizer, case)


@rows_and_engines(CASES)
def test_what_lies_between_and_beside_the_elements_is_left_alone(case: Case, engine: str) -> None:
    layouts = [_in_a_larger_tensor] if engine == "fused" else [_in_a_larger_tensor, _sliced]
    for layout in layouts:
        view = layout(parameter((6, 4)).detach())
        base = view._base
        assert base is not None
        p = view.detach().requires_grad_()
        before = int((base == 7.0).sum())
        train(Optimizer([p], case.rule, engine=engine), [p])
        assert before >= 8
        assert int((base == 7.0).sum()) == before


@rows_and_engines(acting_on("elements", "tensors"))
def test_channels_last(case: Case, engine: str) -> None:
    contiguous = parameter((3, 4, 2, 5))
    last = parameter((3, 4, 2, 5)).detach().to(memory_format=torch.channels_last).requires_grad_()
    train(Optimizer([contiguous], case.rule, engine=engine), [contiguous])
    optimizer = Optimizer([last], case.rule, engine=engine)
    train(optimizer, [last])
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_near([last.detach()], [contiguous.detach()], case.tolerance(torch.float32))


@rows_and_engines(acting_on("elements", "tensors"))
def test_the_layout_may_change_in_mid_training(case: Case, engine: str) -> None:
    # `module.to(memory_format=…)` gives the parameters other data; so do `module.float()` and `module.to(device)`.
    expected = parameter((3, 4, 2, 5))
    train(Optimizer([expected], case.rule, engine=engine), [expected])
    module = nn.Conv2d(4, 3, (2, 5), bias=False)
    module.weight.data.copy_(parameter((3, 4, 2, 5)).detach())
    optimizer = Optimizer(module.parameters(), case.rule, engine=engine)
    train(optimizer, [module.weight], last=2)
    module.to(memory_format=torch.channels_last)
    assert not module.weight.is_contiguous()
    train(optimizer, [module.weight], first=3, last=4)
    assert_near([module.weight.detach()], [expected.detach()], case.tolerance(torch.float32))


@rows_and_engines(CASES)
def test_the_data_may_be_replaced_in_mid_training(case: Case, engine: str) -> None:
    shape = case.shapes[3]
    dtypes = (torch.float32, torch.complex64) if case.takes_complex else (torch.float32,)
    for dtype in dtypes:
        kept, replaced = (parameter(shape).detach().to(dtype).requires_grad_() for _ in range(2))
        train(Optimizer([kept], case.rule, engine=engine), [kept])
        optimizer = Optimizer([replaced], case.rule, engine=engine)
        train(optimizer, [replaced], last=2)
        replaced.data = replaced.data.clone()
        train(optimizer, [replaced], first=3, last=4)
        assert_near([torch.view_as_real(replaced.detach().to(torch.complex128))],
                    [torch.view_as_real(kept.detach().to(torch.complex128))], 1e-6)  # fmt: skip


@rows_and_engines(CASES, fused_variants=False)
def test_the_dtype_may_change_in_mid_training(case: Case, engine: str) -> None:
    module = nn.Linear(3, 4, bias=False)
    module.weight.data.copy_(parameter((4, 3)).detach())
    expected = parameter((4, 3), torch.float64)
    train(Optimizer([expected], case.rule, engine=engine), [expected])
    optimizer = Optimizer(module.parameters(), case.rule, engine=engine)
    train(optimizer, [module.weight], last=2)
    module.double()
    module.weight.grad = None
    train(optimizer, [module.weight], first=3, last=4)
    assert module.weight.dtype == torch.float64
    assert_near([module.weight.detach()], [expected.detach()], case.tolerance(torch.float32))


@rows_and_engines(such_as(lambda case: case.takes_complex))
def test_complex_numbers_are_pairs_of_reals(case: Case, engine: str) -> None:
    for dtype, tolerance in ((torch.complex64, 1e-6), (torch.complex128, 1e-13)):
        pairs = parameter((5, 3, 2), dtype.to_real())
        numbers = torch.view_as_complex(pairs.detach().clone()).requires_grad_()
        real, complex_ = (Optimizer([p], case.rule, engine=engine, clip_norm=2.0) for p in (pairs, numbers))
        for step in range(1, 5):
            give_gradients([pairs], step)
            numbers.grad = torch.view_as_complex(pairs.grad)
            real.step()
            complex_.step()
        assert_near([torch.view_as_real(numbers.detach())], [pairs.detach()], tolerance)
        assert_near([torch.view_as_real(slot) for slot in slots_of(complex_)], slots_of(real), tolerance)
        assert complex_.gradient_norm == pytest.approx(real.gradient_norm, rel=1e-6)


@rows(acting_on("matrices", among=PLAIN_CASES))
@pytest.mark.parametrize(
    ("bad", "shape", "dtype"),
    [
        (torch.zeros(3), r"\(3,\)", "float32"),
        (torch.tensor(1.0), r"\(\)", "float32"),
        (torch.zeros(2, 2, dtype=torch.complex64), r"\(2, 2\)", "complex64"),
    ],
    ids=["vector", "scalar", "complex"],
)
def test_matrix_rules_refuse_what_is_no_real_matrix(case: Case, bad: Tensor, shape: str, dtype: str) -> None:
    if case.rule.fit(tuple(bad.shape)).acts_on != "matrices":
        pytest.skip("this rule has an update for vectors too")
    name = re.escape(case.name)
    with pytest.raises(
        ValueError,
        match=rf"^{name} acts on real matrices \(…, rows, cols\), but parameter 'bad' has shape {shape} and dtype "
        rf"torch\.{dtype} \(group 0\); put it into a group with a rule such as 'AdamW'",
    ):
        Optimizer([("good", torch.zeros(2, 2)), ("bad", bad.requires_grad_())], case.rule)


@rows_and_engines(CASES)
def test_empty_parameters_alone(case: Case, engine: str) -> None:
    empty = parameter((0, 3))
    optimizer = Optimizer([empty], case.rule, engine=engine, clip_norm=1.0, on_nonfinite="raise")
    train(optimizer, [empty], last=2)
    assert empty.shape == (0, 3)
    assert optimizer.state[empty]["step"] == 2
    assert optimizer.gradient_norm == 0.0


@rows_and_engines(acting_on("elements", "tensors"))
def test_a_number_is_a_vector_of_one(case: Case, engine: str) -> None:
    number, vector = parameter(()), parameter(()).detach().reshape(1).requires_grad_()
    for p in (number, vector):
        optimizer = Optimizer([p], case.rule, engine=engine)
        for step in range(1, 5):
            p.grad = torch.full_like(p, 1.0 / step)
            optimizer.step()
    assert_same_bits([number.detach().reshape(1)], [vector.detach()])
