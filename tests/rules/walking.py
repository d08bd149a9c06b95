"""Two ways to work a rule out on one number, which must give what was worked out by hand; a closure for some steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell import Optimizer, Rule
from stepwell.rules.rule import namespace

Walk = Callable[[Rule, float, Sequence[float]], list[dict[str, float]]]


def on_floats(rule: Rule, weight: float, gradients: Sequence[float]) -> list[dict[str, float]]:
    """The weight and the slots after each gradient, in Python's own floats."""
    slots = {slot.name: weight if slot.start == "weights" else 0.0 for slot in rule.slot_list()}
    hyper, path = namespace(rule.values()), []
    for step, gradient in enumerate(gradients, start=1):
        known = namespace({**slots, "step": step})
        slots |= rule.settle(rule.measure(weight, gradient, known, hyper), known, hyper)
        weight, new = rule.update(weight, gradient, namespace({**slots, "step": step}), hyper)
        slots = {**slots, **new}
        path.append({"weight": weight, **slots})
    return path


def in_the_optimizer(rule: Rule, weight: float, gradients: Sequence[float]) -> list[dict[str, float]]:
    """The same through `stepwell.Optimizer` and its reference engine."""
    parameter = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    optimizer, path = Optimizer([parameter], rule, engine="reference"), []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        slots = {name: float(value) for name, value in optimizer.state[parameter].items() if name != "step"}
        path.append({"weight": parameter.item(), **slots})
    return path


def quartic(parameters: list[Tensor], optimizer: torch.optim.Optimizer, seen: list[Any] | None = None) -> Any:
    """A closure of Σθ⁴/4, whose gradient is θ³; `seen` collects the weights at which it is called."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        if seen is not None:
            seen.append([p.detach().clone() for p in parameters])
        loss = sum((p**4).sum() / 4 for p in parameters)
        loss.backward()
        return loss

    return closure
