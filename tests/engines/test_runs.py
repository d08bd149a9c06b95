"""A kernel goes over its arrays run by run: every element is worked out once, whatever is left over of a run, a row or
a chunk, and where memory is asked for ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

import stepwell
from stepwell import Optimizer, Rule, Slot
from stepwell.algebra import row_mean, square
from stepwell.rules import row_wise
from stepwell.rules.registry import _RULES

# About a run, two runs, how far ahead memory is asked for, a run behind that, and a chunk.
LENGTHS = [0, 1, 15, 63, 64, 65, 127, 128, 129, 767, 768, 769, 895, 896, 897, 65_535, 65_536, 65_537]
WIDTHS = [1, 63, 64, 65, 127, 128, 129, 768, 833]


def zeros(shapes: list[Any], dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Parameters whose gradients are 1, 2, 3, … 7, 1, …: exact in every dtype."""
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for p in parameters:
        p.grad = (torch.arange(p.numel()) % 7 + 1).to(dtype).reshape(p.shape)
    return parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_every_element_is_stepped_once(momentum: float, dtype: torch.dtype) -> None:
    parameters = zeros(LENGTHS, dtype)
    optimizer = stepwell.SGD(parameters, lr=0.5, momentum=momentum, engine="fused")
    optimizer.step()
    for p in parameters:
        assert p.grad is not None
        assert torch.equal(p, -0.5 * p.grad)
        if momentum:  # which begins as the gradient
            assert torch.equal(optimizer.state[p]["momentum_buffer"], p.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_element_is_added_up_once(dtype: torch.dtype) -> None:
    for p in zeros(LENGTHS, dtype):
        assert p.grad is not None
        optimizer = stepwell.SGD([p], lr=0.0, clip_norm=1.0, engine="fused")
        optimizer.step()
        assert optimizer.gradient_norm == pytest.approx(float(p.grad.double().norm()), rel=1e-12)


class Rows(Rule, abstract=True):
    """A step by each row's mean square, and that number: the rows are added up before anything is stored."""

    slots = (Slot("square", shape=row_wise, wide=True),)
    acts_on = "tensors"

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        found = row_mean(square(g))
        return p - h.lr * found, {"square": found}


class RowsInPassing(Rows, abstract=True):
    """A step against the gradient: the rows are added up on the way."""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return p - h.lr * g, {"square": row_mean(square(g))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [Rows, RowsInPassing])
def test_every_row_is_added_up_by_itself(kind: type[Rows], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_RULES, kind.__name__.lower(), kind)
    parameters = zeros([(rows, width) for width in WIDTHS for rows in (1, 3, 600)], dtype)
    optimizer = Optimizer(parameters, kind(lr=0.5), engine="fused")
    optimizer.step()
    for p in parameters:
        assert p.grad is not None
        squares = p.grad.double().square().mean(1, keepdim=True)
        step = squares if kind is Rows else p.grad.double()
        torch.testing.assert_close(p.double(), -0.5 * step.expand_as(p), rtol=2 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(optimizer.state[p]["square"].double(), squares, rtol=1e-6, atol=0)
