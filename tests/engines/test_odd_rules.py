"""Rules of one's own that are odd, but in order: every engine gives what the reference gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule, Slot
from stepwell.algebra import column_mean, lerp, mean, norm, row_mean, sqrt, square, total, where
from stepwell.rules.rule import row_wise, tensor_wise

Result = tuple[Any, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RowsOfTheTensorBefore(Rule):
    """Rows are compared with a number of the tensor's as it was before the step that changes it."""

    acts_on = "tensors"
    slots = (Slot("size", shape=tensor_wise), Slot("rows", shape=row_wise))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        rows = row_mean(square(g))
        rows = where(rows > s.size, s.size, rows)
        return g / (sqrt(rows) + 1e-3), {"size": lerp(norm(g), s.size, 0.9), "rows": rows}


@dataclass(frozen=True, kw_only=True)
class NormBefore(Rule):
    """A slot takes what another had before, long after that has been written."""

    acts_on = "tensors"
    slots = (Slot("now", shape=tensor_wise), Slot("before", shape=tensor_wise))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        size = norm(g)
        unit = g / size
        return unit * (norm(unit + p) * s.before), {"now": size, "before": s.now}


@dataclass(frozen=True, kw_only=True)
class RowsBefore(Rule):
    """The same of each row."""

    acts_on = "tensors"
    slots = (Slot("now", shape=row_wise), Slot("before", shape=row_wise))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        rows = row_mean(square(g))
        unit = g / sqrt(rows)
        return unit * (row_mean(square(unit + p)) + s.before), {"now": rows, "before": s.now}


@dataclass(frozen=True, kw_only=True)
class MeanOfRowMeans(Rule):
    """One mean for each matrix of a stack."""

    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        rows = row_mean(square(g))
        return g / sqrt(rows / column_mean(rows)), {}


@dataclass(frozen=True, kw_only=True)
class SumsOfOne(Rule):
    """The sum, and the mean, of one number is that number."""

    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        return g / (1 + mean(norm(g)) + total(norm(g)) + mean(h.lr)), {}


@dataclass(frozen=True, kw_only=True)
class StandsStill(Rule):
    """Nothing happens."""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        return p, {}


@dataclass(frozen=True, kw_only=True)
class MeanSoFar(Rule):
    """0/0 at the first step, which is not taken."""

    slots = (Slot("steps", scalar=True), "sum")

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        return where(s.steps > 0, s.sum / s.steps, g), {"steps": s.steps + 1, "sum": s.sum + g}


@dataclass(frozen=True, kw_only=True)
class AsksItself(Rule):
    """A hyper-parameter is asked of the rule itself."""

    share: float = 0.5

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        return self.share * g, {}


def trained(rule: Rule, shape: tuple[int, ...], engine: Any) -> list[Tensor]:
    """Weights and slots after three steps of two parameters."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    optimizer = Optimizer(weights, rule, engine=engine)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    slots = [slot for weight in weights for slot in optimizer.state[weight].values() if isinstance(slot, Tensor)]
    return [*(weight.detach() for weight in weights), *slots]


@pytest.mark.parametrize("engine", ["foreach", pytest.param("auto", id="fused")])
@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        (RowsOfTheTensorBefore(lr=0.1), (5, 40)),
        (RowsOfTheTensorBefore(lr=0.1), (300, 70)),
        (NormBefore(lr=0.1), (5, 40)),
        (RowsBefore(lr=0.1), (5, 40)),
        (MeanOfRowMeans(lr=0.1), (5, 40)),
        (MeanOfRowMeans(lr=0.1), (2, 5, 40)),  # which no kernel serves
        (SumsOfOne(lr=0.1), (5, 40)),
        (StandsStill(lr=0.1), (5, 40)),
        (MeanSoFar(lr=0.1), (5, 40)),
        (AsksItself(lr=0.1), (5, 40)),
        (AsksItself(lr=0.1, share=5.0), (5, 40)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Rule) else None,
)
def test_odd_rules(rule: Rule, shape: tuple[int, ...], engine: Any) -> None:
    for found, expected in zip(trained(rule, shape, engine), trained(rule, shape, "reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True, kw_only=True)
class DividesByTheRate(Rule):
    """What is divided by is 0 where a schedule ends."""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> Result:
        return (p - g) / h.lr, {}


@pytest.mark.parametrize("engine", ["foreach", pytest.param("auto", id="fused")])
@pytest.mark.parametrize(("rate", "expected"), [(0.0, torch.inf), (-0.0, -torch.inf), (0.5, 4.0)])
def test_a_scalar_of_zero(rate: float, expected: float, engine: Any) -> None:
    weight = torch.full((7,), 3.0, requires_grad=True)
    optimizer = Optimizer([weight], DividesByTheRate(lr=1.0), engine=engine)
    optimizer.param_groups[0]["lr"] = rate
    weight.grad = torch.ones(7)
    optimizer.step()
    assert weight.tolist() == [expected] * 7
