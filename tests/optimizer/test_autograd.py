"""What autograd leaves in a gradient, and what it is told of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.rules import SGD

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])


@ENGINES
def test_a_gradient_that_is_a_lazy_negative(engine: Any) -> None:
    # |conj(1 + iθ) − 1|² = θ²: the step is −0.1 · 2 · 0.3.
    theta = nn.Parameter(torch.tensor([0.3]))
    optimizer = stepwell.SGD([theta], lr=0.1, engine=engine)
    for _ in range(2):
        theta.grad = None
        (torch.complex(torch.ones(1), theta).conj() - 1).abs().square().sum().backward()
        assert theta.grad is not None
        assert theta.grad.is_neg()  # type: ignore[unreachable]
        optimizer.step()
    assert theta.item() == pytest.approx(0.3 * 0.8 * 0.8)


@pytest.mark.parametrize(
    ("lazy", "message"),
    [
        (torch.eye(3, dtype=torch.cfloat).mH, r"^parameter 'w' is a lazy conjugate of .*tensor\.resolve_conj\(\)$"),
        (torch.ones(3, dtype=torch.cfloat).conj().imag, r"^parameter 'w' is a lazy negative .*\.resolve_neg\(\)$"),
    ],
)
def test_a_parameter_that_is_lazy_is_refused(lazy: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stepwell.SGD([("w", nn.Parameter(lazy))], lr=0.1)


@ENGINES
@pytest.mark.parametrize("rule", ["AdamW", "Muon"])
def test_a_graph_of_before_the_step_says_so(rule: str, engine: Any) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = getattr(stepwell, rule)([weight], lr=0.1, engine=engine)
    loss = (weight * weight * weight).sum()
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


@ENGINES
def test_a_graph_of_before_an_evaluation_says_so(engine: Any) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = stepwell.Optimizer([weight], stepwell.ema(SGD(lr=0.1)), engine=engine)
    weight.grad = torch.ones(2)
    optimizer.step()
    loss = (weight * weight).sum()
    optimizer.eval()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]
