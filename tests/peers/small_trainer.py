"""Tiny models of transformers and their data, for trainings with its Trainer that take a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from peers.transformers_models import MODELS

QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "per_device_train_batch_size": 2,
}


class Sentences(Dataset[Any]):
    """Six numbers between 0 and 98 each, the same at each call; for a classifier of three classes, or to be told on."""

    def __init__(self, length: int = 8, *, classes: bool = True) -> None:
        self.length, self.classes = length, classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.randint(0, 99, (6,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids[0] % 3 if self.classes else ids}


def classifier() -> Any:
    """A BERT classifier, the same at each call."""
    torch.manual_seed(0)
    return MODELS["bert"]()


def gpt2() -> Any:
    """A GPT-2, the same at each call."""
    torch.manual_seed(0)
    return MODELS["gpt2"]()


def difference(one: Any, other: Any) -> float:
    """The largest difference between two models' weights."""
    return max(float((p - q).detach().abs().max()) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def weights(model: Any) -> list[Tensor]:
    """Copies of a model's weights."""
    return [p.detach().clone() for p in model.parameters()]
