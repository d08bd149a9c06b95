"""Every function of the algebra gives the same on every kind of number."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stepwell import algebra
from stepwell.algebra.lists import TensorList
from stepwell.algebra.tracing import Graph
from stepwell.engines.fused.cutting import cut
from stepwell.engines.fused.source import host_function

VALUES = [-1.5, -0.0, 0.25, 2.0]
POSITIVE = [0.25, 1.0, 2.0, 9.0]

# name, the function on one number, the arguments, the expected values worked out with the math module
UNARY: list[tuple[str, list[float], Callable[[float], float]]] = [
    ("sqrt", POSITIVE, math.sqrt),
    ("square", VALUES, lambda x: x * x),
    ("absolute", VALUES, abs),
    ("sign", VALUES, lambda x: math.copysign(1, x) if x else 0.0),
    ("exp", VALUES, math.exp),
    ("log", POSITIVE, math.log),
    ("cos", VALUES, math.cos),
    ("floor", VALUES, math.floor),
]
BINARY: list[tuple[str, Callable[[float, float], float]]] = [
    ("minimum", min),
    ("maximum", max),
    ("add", lambda x, y: x + y),
    ("sub", lambda x, y: x - y),
    ("mul", lambda x, y: x * y),
    ("div", lambda x, y: x / y),
]
OPERATORS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
}


def function(name: str) -> Callable[..., Any]:
    return OPERATORS[name] if name in OPERATORS else getattr(algebra, name)


def on_floats(f: Callable[..., Any], *columns: list[float]) -> list[float]:
    return [f(*row) for row in zip(*columns, strict=True)]


def on_numpy(f: Callable[..., Any], *columns: list[float]) -> list[float]:
    return f(*(np.array(column) for column in columns)).tolist()


def on_torch(f: Callable[..., Any], *columns: list[float]) -> list[float]:
    return f(*(torch.tensor(column, dtype=torch.float64) for column in columns)).tolist()


def on_lists(f: Callable[..., Any], *columns: list[float]) -> list[float]:
    halves = [
        TensorList([torch.tensor(column[:2], dtype=torch.float64), torch.tensor(column[2:], dtype=torch.float64)])
        for column in columns
    ]
    return [x for tensor in f(*halves).tensors for x in tensor.tolist()]


def on_jax(f: Callable[..., Any], *columns: list[float]) -> list[float]:
    jax = pytest.importorskip("jax")
    return jax.jit(f)(*(jax.numpy.array(column) for column in columns)).tolist()


def on_traces(f: Callable[..., Any], *columns: list[float]) -> list[float]:
    """Traced as scalars, written as Python source, and run."""
    graph = Graph()
    result = f(*(graph.symbol(f"h.x{index}") for index in range(len(columns))))
    run = host_function(cut("test", graph, {}, scalar_slots={"result": result}))
    return [run({f"x{i}": x for i, x in enumerate(row)}, {})[1][0] for row in zip(*columns, strict=True)]


KINDS = [on_floats, on_numpy, on_torch, on_lists, on_jax, on_traces]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "values", "expected"), UNARY, ids=[row[0] for row in UNARY])
def test_functions_of_one_number(
    name: str, values: list[float], expected: Callable[[float], float], kind: Callable[..., list[float]]
) -> None:
    found = kind(function(name), values)
    assert found == pytest.approx([expected(x) for x in values], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "expected"), BINARY, ids=[row[0] for row in BINARY])
def test_functions_of_two_numbers(
    name: str, expected: Callable[[float, float], float], kind: Callable[..., list[float]]
) -> None:
    found = kind(function(name), VALUES, POSITIVE)
    assert found == pytest.approx([expected(x, y) for x, y in zip(VALUES, POSITIVE, strict=True)], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_where_takes_the_side_of_the_condition(kind: Callable[..., list[float]]) -> None:
    found = kind(lambda x, y: algebra.where(x > 0, x, y), VALUES, POSITIVE)
    assert found == pytest.approx([0.25, 1.0, 0.25, 2.0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda x, y: x == y, [-1.0, 1.0, 1.0, -1.0]),
        (lambda x, y: x != y, [1.0, -1.0, -1.0, 1.0]),
        (lambda x, y: x * y == 0, [-1.0, 1.0, -1.0, -1.0]),
        (lambda x, y: x * y != 0.0625, [1.0, 1.0, -1.0, 1.0]),
    ],
)
def test_numbers_are_compared_one_by_one(
    condition: Callable[..., Any], expected: list[float], kind: Callable[..., list[float]]
) -> None:
    found = kind(lambda x, y: algebra.where(condition(x, y), 1.0, -1.0), VALUES, [2.0, 0.0, 0.25, math.nan])
    assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_lerp_is_x_at_0_and_y_at_1(kind: Callable[..., list[float]]) -> None:
    found = kind(lambda x, y: algebra.lerp(x, y, 0.25), VALUES, POSITIVE)
    assert found == pytest.approx([0.75 * x + 0.25 * y for x, y in zip(VALUES, POSITIVE, strict=True)], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_lerp_at_1_keeps_nothing_of_x(kind: Callable[..., list[float]]) -> None:
    small = [1e-9, -1e-9, 3e-9]
    assert kind(lambda x, y: algebra.lerp(x, y, 1.0), [1e9, 3e8, -7e9], small) == kind(lambda y: y, small)
    # A weight that is not known beforehand.
    many = kind(lambda x, y, weight: algebra.lerp(x, y, weight), [1e9, 3e8, -7e9], small, [1.0, 1.0, 1.0])
    assert many == kind(lambda y: y, small)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_numbers_go_along_on_either_side(kind: Callable[..., list[float]]) -> None:
    found = kind(lambda x: (1 - 2 * x) / 4 + 2.0**x - (x - 1) ** 2 + 1 / x - -x, POSITIVE)
    expected = [(1 - 2 * x) / 4 + 2.0**x - (x - 1) ** 2 + 1 / x + x for x in POSITIVE]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["minimum", "maximum"])
@pytest.mark.parametrize("kind", KINDS)
def test_extremes_of_nan_are_nan(name: str, kind: Callable[..., list[float]]) -> None:
    nan = math.nan
    found = kind(function(name), [nan, 1.0, 1.0, nan], [1.0, nan, 2.0, nan])
    assert [math.isnan(x) for x in found] == [True, True, False, True]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (on_numpy, on_jax)])
def test_the_sign_of_nan_is_zero_as_in_torch(kind: Callable[..., list[float]]) -> None:
    assert kind(algebra.sign, [math.nan, 0.0, -0.0, -3.0]) == [0.0, 0.0, 0.0, -1.0]


def test_plain_numbers_follow_ieee_where_python_raises() -> None:
    assert math.isnan(algebra.sqrt(-1.0))
    assert algebra.log(0.0) == -math.inf
    assert math.isnan(algebra.log(-1.0))
    assert algebra.exp(1000.0) == math.inf


def test_reductions_give_one_number_a_tensor() -> None:
    x = torch.tensor([3.0, 4.0])
    assert float(algebra.norm(x)) == 5.0
    assert float(algebra.total(x)) == 7.0
    assert float(algebra.mean(x)) == 3.5
    pair = algebra.norm(TensorList([x, 2 * x]))
    assert [float(t) for t in pair.tensors] == [5.0, 10.0]
    assert algebra.mean(np.array([1, 2])) == 1.5


def test_numbers_beside_tensors_are_not_copied_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    # A copy makes the host wait for a GPU; what fills memory there does not.
    x = torch.tensor([-2.0, 3.0])
    monkeypatch.delattr(torch, "tensor")
    assert algebra.where(x < 0, -1.0, 1.0).tolist() == [-1.0, 1.0]
    assert algebra.where(x < 0, -1.0, 1.0).dtype == torch.float64
    assert algebra.maximum(0.0, x).tolist() == [0.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_numbers_beside_a_condition_are_in_the_dtype_that_is_computed_in(dtype: torch.dtype) -> None:
    x = TensorList([torch.tensor([-2.0, 3.0], dtype=dtype)], dtype)
    signs = algebra.where((x < 0) * (x > -9), -0.1, 0)
    assert signs.tensors[0].dtype == dtype
    assert signs.tensors[0].tolist() == torch.tensor([-0.1, 0.0], dtype=dtype).tolist()


def test_lists_of_two_dtypes_are_interpolated_in_the_wider_one() -> None:
    x, y = TensorList([torch.tensor([2.0])]), TensorList([torch.tensor([4.0], dtype=torch.float64)])
    (tensor,) = algebra.lerp(x, y, 0.25).tensors
    assert (tensor.dtype, tensor.item()) == (torch.float64, 2.5)


def test_a_list_keeps_what_it_is_made_of() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    _ = TensorList(tensors) * 2 + 1
    assert all(torch.equal(t, torch.ones_like(t)) for t in tensors)


def test_kinds_do_not_mix() -> None:
    with pytest.raises(TypeError, match="numbers of different kinds do not mix in one expression: Tensor, ndarray"):
        algebra.minimum(torch.ones(1), np.ones(1))


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(TypeError, match=r"stepwell\.algebra does not know numbers of type builtins\.str"):
        algebra.sqrt("2")


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_means_of_rows_and_columns(make: Any) -> None:
    x = make([[1.0, 2.0], [3.0, 6.0]])
    assert algebra.row_mean(x).tolist() == [[1.5], [4.5]]
    assert algebra.column_mean(x).tolist() == [[2.0, 4.0]]
    assert algebra.row_mean(2.0) == algebra.column_mean(2.0) == 2.0


@pytest.mark.parametrize("shape", [(), (5,)])
@pytest.mark.parametrize("in_list", [False, True])
def test_what_has_no_columns_has_no_mean_of_them(shape: tuple[int, ...], in_list: bool) -> None:
    x = TensorList([torch.ones(shape)]) if in_list else torch.ones(shape)
    with pytest.raises(ValueError, match=r"^column_mean takes matrices .*, got shape \(.*\); a rule"):
        algebra.column_mean(x)


@pytest.mark.parametrize("number", [np.float64(2.0), np.float32(2.0), np.int64(2), np.array(2.0)])
def test_a_numpy_number_is_one_of_numpys(number: Any) -> None:
    # numpy.float64 is a float, too, but what comes of a comparison with it is NumPy's.
    assert algebra.where(number < 3, algebra.minimum(number, 1), number) == 1.0


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75, 0.9999, 1.0])
def test_a_weight_near_1_keeps_its_digits(weight: float) -> None:
    x = torch.tensor([1e-4, 3.0, -2.0])
    y, zeros = -x, torch.zeros(3)
    expected = algebra.lerp(x.double(), zeros.double(), weight)
    for found in (algebra.lerp(x, zeros, weight), *algebra.lerp(TensorList([x]), TensorList([zeros]), weight).tensors):
        torch.testing.assert_close(found.double(), expected, rtol=1e-7, atol=0.0)
    for found in (algebra.lerp(x, y, weight), *algebra.lerp(TensorList([x]), TensorList([y]), weight).tensors):
        torch.testing.assert_close(found.double(), x.double() * (1 - 2 * weight), rtol=1e-6, atol=1e-7)
