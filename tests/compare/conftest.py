from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.compare.contestants import Contestant
from stepwell.compare.task import Task
from stepwell.recipes import PRESETS


class Weight(nn.Module):
    """One number w, with the loss w²/2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))


def half_square(model: nn.Module, _batch: Any) -> Tensor:
    return 0.5 * (model.w**2).sum()


@dataclass(frozen=True, kw_only=True)
class PlainSGD(Contestant):
    """SGD at a constant rate, so that every number can be worked out by hand."""

    def build(self, model: nn.Module, settings: Any, steps: int) -> Any:
        optimizer = stepwell.SGD(model.parameters(), lr=settings["lr"])
        return optimizer, stepwell.create_scheduler(optimizer, "constant", horizon=steps)


@pytest.fixture
def sgd() -> Contestant:
    return PlainSGD(name="sgd", title="SGD", recipe=PRESETS["sgd"], space=())


@pytest.fixture
def weight_task() -> Callable[..., Task]:
    def make(**changes: Any) -> Task:
        fields: dict[str, Any] = {
            "name": "weight",
            "model": Weight,
            "batch": lambda step: step,
            "loss": half_square,
            "validate": lambda model: float(model.w),
        }
        return Task(**(fields | changes))

    return make
