"""Steps within what torch compiles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.optimizer.uncompiled import uncompiled

# Of torch, about torch, while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning"),
]


def training(compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> tuple[list[float], Tensor]:
    """The learning rates and the weight of a training whose loop body is compiled."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 2), torch.ones(3, 4)
    optimizer = stepwell.AdamW(model.parameters(), lr=0.1, clip_norm=0.5)
    scheduler = stepwell.create_scheduler(optimizer, "linear", horizon=8)

    def body(x: Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        scheduler.step()

    run, rates = compiled(body), []
    for _ in range(5):
        run(x)
        rates.append(optimizer.param_groups[0]["lr"])
    assert {int(state["step"]) for state in optimizer.state.values()} == {5}
    return rates, model.weight


def test_a_compiled_loop_steps_as_one_that_is_not_and_is_compiled_once() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    rates, weight = training(lambda body: torch.compile(body, backend="eager"))
    seen = counters["frames"]["total"]
    plain_rates, plain_weight = training(lambda body: body)
    assert rates == plain_rates
    assert torch.equal(weight, plain_weight)
    # The body and torch's hook around a step, cut at backward and both steps. Ours are about sixty.
    assert 0 < seen < 20


def test_a_method_and_its_closure_run_as_they_stand() -> None:
    seen: list[bool] = []

    class Steps:
        @uncompiled
        def step(self, closure: Callable[[], int]) -> int:
            """One step."""
            seen.append(torch.compiler.is_compiling())
            return closure()

    steps = Steps()
    torch._dynamo.reset()

    @torch.compile(backend="eager")
    def body(x: Tensor) -> Tensor:
        return x + steps.step(lambda: 3)

    assert body(torch.ones(2)).tolist() == [4.0, 4.0]
    assert steps.step(lambda: 2) == 2
    assert seen == [False, False]
    assert (Steps.step.__name__, Steps.step.__doc__) == ("step", "One step.")


def test_a_step_that_nothing_compiles_does_not_import_dynamo() -> None:
    program = """
import sys, torch, stepwell
p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3)
optimizer = stepwell.SGD([p], lr=0.1)
scheduler = stepwell.create_scheduler(optimizer, "linear", horizon=4)
optimizer.step(); scheduler.step()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
