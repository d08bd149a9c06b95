"""A small training, and what the tests of checkpoints look at in it."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import stepwell
from stepwell import checkpoint


@dataclass
class Training:
    """A small training that draws from every global generator, so that a wrong one shows in the weights."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any = None

    def go(self, steps: int) -> Training:
        for _ in range(steps):
            tokens = torch.from_numpy(np.random.randint(0, 16, (4, 6)))
            scale = 1 + 0.1 * random.random()
            loss = nn.functional.cross_entropy(self.model(tokens).flatten(0, 1), tokens.flatten())
            (scale * loss).backward()
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
            self.optimizer.zero_grad()
        return self

    def save(self, path: Path, **options: Any) -> Path:
        return checkpoint.save(path, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, **options)

    def load(self, path: Path, **options: Any) -> Any:
        return checkpoint.load(path, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, **options)

    def everything(self) -> Any:
        """All that a load may change, in copies; tensors as (dtype, numbers), so that `==` compares bits."""
        parts = [
            self.model.state_dict(),
            [module.training for module in self.model.modules()],
            {p: dict(state) for p, state in enumerate(map(self.optimizer.state.get, self.parameters)) if state},
            [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups],
            None if self.scheduler is None else self.scheduler.state_dict(),
        ]
        return as_values(parts), generators()

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def as_values(value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: as_values(each) for key, each in value.items()}
    return [as_values(each) for each in value] if isinstance(value, (list, tuple)) else copy.deepcopy(value)


def generators() -> Any:
    state = np.random.get_state()
    return random.getstate(), [as_values(np.asarray(part).tolist()) for part in state], torch.get_rng_state().tolist()


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def language_model(dtype: torch.dtype = torch.float32, *, tied: bool = True, dropout: float = 0.1) -> nn.Module:
    """An embedding that is also the head, a hidden matrix, a norm, a buffer, and dropout."""
    model = nn.Sequential(
        nn.Embedding(16, 8), nn.Linear(8, 8), nn.Dropout(dropout), nn.LayerNorm(8), nn.Linear(8, 16, bias=False)
    )
    if tied:
        model[4].weight = model[0].weight
    model.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
    return model.to(dtype)


def training(recipe: str = "muon", *, seeded: int = 0, schedule: str | None = "cosine", **options: Any) -> Training:
    seed(seeded)
    model = language_model(**{key: options.pop(key) for key in ("dtype", "tied") if key in options})
    optimizer = stepwell.create_optimizer(model, recipe, **{"lr": 0.01, **options})
    made = stepwell.create_scheduler(optimizer, schedule, horizon=20, warmup=0.1) if schedule else None
    return Training(model, optimizer, made)


def sealed(data: dict[str, Any]) -> bytes:
    """Any content with a right checksum."""
    body = json.dumps(data).removeprefix("{").encode() + b"\n"
    return b'{"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body
