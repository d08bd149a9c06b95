"""Rules with one number a row, a column, or a tensor, in the fused engine."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import stepwell
from stepwell import Slot
from stepwell.algebra import column_mean, lerp, maximum, mean, row_mean, sqrt, square, total, where
from stepwell.algebra.tracing import Level
from stepwell.engines.fused import engine
from stepwell.engines.fused.traces import trace
from stepwell.rules import column_wise, row_wise, tensor_wise
from stepwell.rules.registry import _RULES
from stepwell.rules.rule import Shape


@pytest.fixture(autouse=True)
def _own_rules_are_forgotten() -> Iterator[None]:
    before = dict(_RULES)
    yield
    _RULES.clear()
    _RULES.update(before)


@dataclass(frozen=True, kw_only=True)
class Factored(stepwell.Rule):
    """A second moment of rows and columns, a clip and a scale over the tensor: reductions of reductions."""

    factored: bool = True
    acts_on = "tensors"

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        rows_and_columns = (Slot("row", shape=row_wise), Slot("column", shape=column_wise))
        return rows_and_columns if self.factored else ("exp_avg_sq",)

    def fit(self, shape: Shape) -> "Factored":
        return replace(self, factored=len(shape) >= 2)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
        beta = 1 - s.step**-0.8
        squares = square(g) + 1e-30
        if h.factored:
            row = lerp(row_mean(squares), s.row, beta)
            column = lerp(column_mean(squares), s.column, beta)
            update = g / sqrt(row / column_mean(row)) / sqrt(column)
            slots = {"row": row, "column": column}
        else:
            slots = {"exp_avg_sq": lerp(squares, s.exp_avg_sq, beta)}
            update = g / sqrt(slots["exp_avg_sq"])
        clip = maximum(1.0, sqrt(mean(square(update))))
        return maximum(1e-3, sqrt(mean(square(p)))) * update / clip, slots


@dataclass(frozen=True, kw_only=True)
class OneAMatrix(stepwell.Rule):
    """A second moment that is one number a tensor."""

    slots = ("exp_avg", Slot("exp_avg_sq", shape=tensor_wise))
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
        squares = total(square(g))
        second = where(s.step <= 1, squares, lerp(squares, s.exp_avg_sq, 0.9))
        first = 0.9 * s.exp_avg + g / (sqrt(second) + 1e-8)
        return first, {"exp_avg": first, "exp_avg_sq": second}


@dataclass(frozen=True, kw_only=True)
class OneARow(stepwell.Rule):
    """A second moment that is one number a row; its old value is needed beside the new one."""

    slots = ("exp_avg", Slot("size", shape=row_wise))
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
        size = lerp(row_mean(square(g)), s.size, 0.9)
        first = lerp(g, s.exp_avg, 0.9)
        return first / (sqrt(size) + 0.1 * sqrt(s.size) + mean(size) + 1e-8), {"exp_avg": first, "size": size}


# Several chunks; several tiles will do where a kernel is interpreted.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LARGE = (40, 300) if INTERPRETED else (300, 1100)
# Rows that are multiples of a run, in more than one chunk.
RUNS: tuple[tuple[int, int], ...] = ((5, 64),) if INTERPRETED else ((301, 640), (1041, 64))
SHAPES = {
    Factored: ((5, 7), LARGE, (1, 3), (3, 1), (4,), (), (2, 3, 4)),
    OneAMatrix: ((5, 7), LARGE, (4,), (), (2, 3, 4), (0, 3)),
    OneARow: ((5, 7), LARGE, (1, 3), (3, 1), (4,), (2, 3, 4), *RUNS),
}
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def trained(kind: type[stepwell.Rule], engine: str, dtype: torch.dtype, threads: int = 2) -> list[torch.Tensor]:
    """Weights and state after four steps."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES[kind]]
    optimizer = stepwell.Optimizer(parameters, kind(lr=0.1, weight_decay=0.1), engine=engine)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(4):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            optimizer.step()
    finally:
        torch.set_num_threads(before)
    slots = [optimizer.state[p][name] for p in parameters for name in sorted(optimizer.state[p]) if name != "step"]
    return [p.detach() for p in parameters] + slots


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", SHAPES)
def test_it_agrees_with_the_reference(kind: type[stepwell.Rule], dtype: torch.dtype) -> None:
    expected = trained(kind, "reference", dtype)
    for name in ("foreach", "auto"):
        for found, wanted in zip(trained(kind, name, dtype), expected, strict=True):
            tolerance = TOLERANCE[dtype]
            torch.testing.assert_close(found.double(), wanted.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_bits_do_not_depend_on_the_threads(kind: type[stepwell.Rule]) -> None:
    for one, two in zip(trained(kind, "auto", torch.float32, 1), trained(kind, "auto", torch.float32, 2), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("width", [1 << 20, (1 << 20) + 1])
def test_a_long_row_is_added_up_without_loss(width: int) -> None:
    p = torch.nn.Parameter(torch.zeros(2, width))
    p.grad = torch.full_like(p, 0.1)
    optimizer = stepwell.Optimizer([p], OneARow(lr=0.1), engine="fused")
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["size"].flatten(), torch.full((2,), 0.1 * 0.01), rtol=1e-6, atol=0)


def test_the_bits_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for large in (1 << 26, 1):
        monkeypatch.setattr(engine, "LARGE_MODEL", large)
        engine.layout_of.cache_clear()
        p = torch.nn.Parameter(torch.linspace(-1, 1, 300_001))
        p.grad = torch.linspace(2, -1, 300_001)
        optimizer = stepwell.AdamW([p], lr=0.1, engine="fused")
        optimizer.step()
        found.append((p.detach(), optimizer.state[p]["exp_avg_sq"]))
    engine.layout_of.cache_clear()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_one_factored_step_is_what_the_formula_says() -> None:
    gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    p = torch.nn.Parameter(torch.full((2, 2), 2.0, dtype=torch.float64))
    p.grad = gradient
    optimizer = stepwell.Optimizer([p], Factored(lr=0.1), engine="fused")
    optimizer.step()
    # β = 0 at the first step. Squares 1 4 / 9 16: row means 2.5, 12.5; column means 5, 10; mean row 7.5.
    assert optimizer.state[p]["row"].tolist() == [[2.5], [12.5]]
    assert optimizer.state[p]["column"].tolist() == [[5.0, 10.0]]
    second_moment = torch.tensor([[2.5 * 5, 2.5 * 10], [12.5 * 5, 12.5 * 10]], dtype=torch.float64) / 7.5
    update = gradient / second_moment.sqrt()
    assert float(update.square().mean()) < 1  # so there is no clip
    torch.testing.assert_close(p.detach(), 2 - 0.1 * 2 * update, rtol=1e-15, atol=1e-15)


def test_a_matrix_is_read_three_times_and_written_once() -> None:
    program = trace(Factored())
    assert [phase.loads for phase in program.phases] == [("p", "g"), ("g",), ("p", "g")]
    assert [[name for name, _ in phase.stores] for phase in program.phases] == [[], [], ["p"]]
    assert program.bytes_per_element({"p": 4, "g": 4}) == 24
    assert [len(program.kept[level]) > 0 for level in (Level.ROW, Level.COLUMN)] == [True, True]
    assert program.finishes[0] is None


def test_arrays_may_have_the_words_of_the_kernel() -> None:
    optimizer = stepwell.Optimizer([torch.nn.Parameter(torch.ones(2, 2))], OneARow())
    source = optimizer.kernel_source()
    assert "size_slot" in source
    compile(source, "kernel", "exec")


def test_a_slot_of_rows_cannot_be_made_of_elements() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(stepwell.Rule):
        slots = (Slot("row", shape=row_wise),)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g, {"row": g}

    with pytest.raises(
        TypeError,
        match=r"Wrong\.update: the slot 'row' holds one number for each row, .* has one for each element",
    ):
        trace(Wrong())


def test_what_has_columns_needs_a_matrix() -> None:
    three = torch.nn.Parameter(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="for Factored it serves contiguous matrices; use engine='auto'"):
        stepwell.Optimizer([three], Factored(), engine="fused")


def test_state_of_other_shapes_is_saved_and_loaded() -> None:
    p = torch.nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2)
    optimizer = stepwell.Optimizer([p], Factored())
    optimizer.step()
    saved = optimizer.state_dict()
    again = stepwell.Optimizer([torch.nn.Parameter(torch.ones(3, 2))], Factored())
    again.load_state_dict(saved)
    assert again.state[again.param_groups[0]["params"][0]]["row"].shape == (3, 1)
    saved["state"][0]["row"] = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"the saved slot 'row' .* has shape .*, which needs"):
        again.load_state_dict(saved)


def test_complex_parameters_are_refused() -> None:
    p = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"Factored takes real parameters, but number 0 has dtype torch\.complex64"):
        stepwell.Optimizer([p], Factored())
