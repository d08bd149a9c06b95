"""Our optimizers and schedulers in transformers' Trainer: a resumed training is the uninterrupted one, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from peers.loops import Model, Samples
from stepwell.integrations import huggingface
from stepwell.schedules import Cosine

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours

Pair = tuple[torch.optim.Optimizer, Any]


def linear(parameters: Any) -> Pair:
    optimizer = huggingface.AdamW(parameters, lr=0.01, weight_decay=0.1)
    return optimizer, huggingface.get_scheduler("linear", optimizer, 1, 8)


def relative(parameters: Any) -> Pair:
    optimizer = huggingface.Adafactor(parameters)
    return optimizer, huggingface.AdafactorSchedule(optimizer)


def by_calls(parameters: Any) -> Pair:
    optimizer = stepwell.AdamW(parameters, lr=0.01)
    return optimizer, stepwell.create_scheduler(optimizer, "cosine", horizon=8, warmup=1)


def by_steps(parameters: Any) -> Pair:
    optimizer = stepwell.AdamW(parameters, lr=0.01)
    return optimizer, stepwell.Scheduler(optimizer, lr=Cosine(warmup=1), horizon=8, counts="steps")


@pytest.mark.parametrize("make", [linear, relative, by_calls, by_steps])
def test_a_resumed_training(make: Callable[[Any], Pair], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=3,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )

    def train(resume: str | None) -> tuple[list[float], float]:
        torch.manual_seed(0)
        model = Model()
        trainer = transformers.Trainer(
            model, arguments, train_dataset=Samples(8), optimizers=make(list(model.parameters()))
        )
        trainer.train(resume_from_checkpoint=resume)
        rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        return rates, model.weight.item()

    whole = train(None)
    assert len(whole[0]) == stepwell.horizon(8, batch_size=2, epochs=2) == 8
    assert train(str(tmp_path / "checkpoint-3")) == whole
