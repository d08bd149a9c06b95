"""Trainings by other libraries' loops, for the number of optimizer steps that they really take.

As a program it trains on the processes that `torch.distributed.run` has started:

    python -m torch.distributed.run --nproc-per-node 2 loops.py accelerate '[{"samples": 9, …}, …]' folder
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Setting:
    """What an epoch is made of, and how it is trained on."""

    samples: int
    batch_size: int
    accumulation: int
    epochs: float
    drop_last: bool = False

    def loader(self) -> DataLoader[Any]:
        return DataLoader(Samples(self.samples), batch_size=self.batch_size, drop_last=self.drop_last)


class Samples(Dataset[Any]):
    """Numbers, as a model of transformers takes them."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"x": torch.full((1,), float(index))}


class Model(nn.Module):
    """One weight, and its loss as transformers wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * x).mean()}


class Counting(torch.optim.SGD):
    """Counts its steps, by a hook: torch calls hooks twice for a step that calls its base class's step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taken = 0
        self.register_step_post_hook(self._count)

    @staticmethod
    def _count(optimizer: Any, *_: Any) -> None:
        optimizer.taken += 1


def accelerate(setting: Setting, *, shards: int | None = None, across_epochs: bool = False) -> int:
    """Accelerate's loop. With `shards` it trains on the first of so many shares of the data, made by Accelerate."""
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import GradientAccumulationPlugin

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    plugin = GradientAccumulationPlugin(num_steps=setting.accumulation, sync_with_dataloader=not across_epochs)
    accelerator = Accelerator(gradient_accumulation_plugin=plugin, cpu=True)
    model = Model()
    counting = Counting(model.parameters(), lr=1e-6)
    model, optimizer = accelerator.prepare(model, counting)
    if shards is None:
        loader = accelerator.prepare(setting.loader())
    else:
        loader = prepare_data_loader(setting.loader(), num_processes=shards, process_index=0)
    for _ in range(int(setting.epochs)):
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()
    return counting.taken


def trainer(setting: Setting) -> int:
    """transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    model = Model()
    counting = Counting(model.parameters(), lr=1e-6)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.batch_size,
            gradient_accumulation_steps=setting.accumulation,
            num_train_epochs=setting.epochs,
            dataloader_drop_last=setting.drop_last,
            dataloader_pin_memory=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        optimizers = (counting, torch.optim.lr_scheduler.LambdaLR(counting, lambda _: 1.0))
        training = Trainer(model, arguments, train_dataset=Samples(setting.samples), optimizers=optimizers)
        training.train()
        assert training.state.max_steps == training.state.global_step == counting.taken
    return counting.taken


def lightning(setting: Setting, *, max_steps: int = -1, **options: Any) -> int:
    """Lightning's Trainer."""
    import lightning.pytorch as pl

    counting: list[Counting] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Counting:
            self.expected = self.trainer.estimated_stepping_batches
            counting.append(Counting(self.parameters(), lr=1e-6))
            return counting[0]

    module = Module()
    training = pl.Trainer(
        max_epochs=int(setting.epochs),
        max_steps=max_steps,
        accumulate_grad_batches=setting.accumulation,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    training.fit(module, setting.loader())
    assert module.expected == counting[0].taken
    return counting[0].taken


LOOPS: dict[str, Callable[[Setting], int]] = {
    "accelerate": accelerate,
    "trainer": trainer,
    "lightning": lambda setting: lightning(setting, strategy="ddp", devices=2),
}


if __name__ == "__main__":
    name, settings, folder = sys.argv[1:]
    taken = [LOOPS[name](Setting(**setting)) for setting in json.loads(settings)]
    (Path(folder) / f"process-{os.environ['RANK']}.json").write_text(json.dumps(taken))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    # A thread of gloo's that lets go of a tensor as Python ends aborts the process (pytorch issue 190489).
    os._exit(0)
