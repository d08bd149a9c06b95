"""The usage examples of transformers' Trainer documentation, with our Trainer, on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import stepwell
from peers.small_trainer import QUIET, Sentences, classifier, gpt2, weights

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the examples write to "./results" and the like


def test_automatic_creation() -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    model = classifier()
    before = weights(model)
    arguments = TrainingArguments(
        output_dir="./results",
        **{**QUIET, "per_device_train_batch_size": 4, "logging_strategy": "steps", "logging_steps": 1},
        num_train_epochs=3,
        learning_rate=5e-5,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        warmup_ratio=0.1,
        optim="adamw_torch",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences(12))
    assert isinstance(trainer.optimizer, stepwell.Optimizer)
    assert "rule: AdamW" in f"Optimizer: {trainer.optimizer}"
    assert isinstance(trainer.lr_scheduler, LambdaLR)
    made = trainer.optimizer
    trainer.train()
    assert trainer.optimizer.optimizer is made  # within Accelerate's wrapper
    assert trainer.state.global_step == 9  # three batches of four, three times
    # ⌈0.1 · 9⌉ = 1 step of warm-up from 0, then down to 0 over the other eight; each step logs its own rate.
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.0, *(5e-5 * (9 - step) / 8 for step in range(1, 9))])
    assert any(not torch.equal(p, q) for p, q in zip(weights(model), before, strict=True))


def test_a_custom_trainer_with_an_optimizer_of_its_own() -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    no_decay = ["bias", "LayerNorm.weight", "LayerNorm.bias"]

    class CustomTrainer(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.share = 0.1  # later than the Trainer's own constructor

        def create_optimizer(self) -> None:
            named = list(self.model.named_parameters())
            groups = [
                {
                    "params": [p for n, p in named if ("bert" in n) is in_bert and _ends(n) is undecayed],
                    "weight_decay": 0.0 if undecayed else self.args.weight_decay,
                    "lr": self.args.learning_rate * (self.share if in_bert else 1.0),
                }
                for in_bert in (True, False)
                for undecayed in (False, True)
            ]
            self.optimizer = torch.optim.AdamW(
                groups, betas=(self.args.adam_beta1, self.args.adam_beta2), eps=self.args.adam_epsilon
            )

    def _ends(name: str) -> bool:
        return any(word in name for word in no_decay)

    trainer = CustomTrainer(
        model=classifier(), args=TrainingArguments(output_dir="./custom-opt", **QUIET), train_dataset=Sentences()
    )
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [5e-5 * 0.1] * 2 + [5e-5] * 2
    trainer.train()
    assert trainer.state.global_step == 12
    assert type(trainer.optimizer.optimizer) is torch.optim.AdamW
    assert trainer.plan is None


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("directly", [True, False])
def test_a_custom_trainer_that_asks_whether_there_is_an_optimizer(own: bool, directly: bool) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    class Careful(Trainer):
        def create_optimizer(self, model: Any = None) -> Any:
            if self.optimizer is None:
                if own:
                    self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
                else:
                    super().create_optimizer()
            return self.optimizer

    trainer = Careful(classifier(), TrainingArguments(output_dir="./careful", **QUIET), train_dataset=Sentences())
    made = trainer.create_optimizer() if directly else trainer.optimizer
    assert made is trainer.optimizer
    assert type(made) is (torch.optim.SGD if own else stepwell.Optimizer)
    trainer.train()
    assert trainer.optimizer.optimizer is made


def test_manual_creation() -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    data = Sentences(64, classes=False)
    arguments = TrainingArguments(
        output_dir="./manual-opt",
        **{**QUIET, "per_device_train_batch_size": 8},
        num_train_epochs=3,
        learning_rate=5e-5,
        lr_scheduler_type="cosine",
        warmup_steps=12,
    )
    trainer = Trainer(model=gpt2(), args=arguments, train_dataset=data)
    made = trainer.create_optimizer()
    batches = len(data) // (arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps)
    total_steps = batches * float(arguments.num_train_epochs)  # which it is, where it is left at its default
    scheduler = trainer.create_scheduler(num_training_steps=total_steps)
    assert trainer.optimizer is made
    assert trainer.lr_scheduler is scheduler
    assert trainer.create_optimizer() is made  # what is there is kept
    assert trainer.create_scheduler(num_training_steps=7) is scheduler
    assert trainer.optimizer.__class__.__name__ == "Optimizer"
    assert trainer.optimizer.param_groups[0]["lr"] == 0.0  # of step 0, in the warm-up
    assert scheduler.base_lrs == [5e-5, 5e-5]
    assert scheduler.lr_lambdas[0](18) == pytest.approx(0.5)  # half-way between step 12 and step 24
    trainer.train()
    assert trainer.state.global_step == total_steps == 24


def test_a_scheduler_for_another_optimizer() -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    model = classifier()
    trainer = Trainer(model, TrainingArguments(output_dir="./other", **QUIET), train_dataset=Sentences())
    other = torch.optim.SGD(model.parameters(), lr=0.5)
    assert trainer.create_scheduler(10, optimizer=other).optimizer is other


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"optim": "adamw_torch", "learning_rate": 5e-5, "weight_decay": 0.01}, "AdamW"),
        ({"optim": "adafactor", "learning_rate": 5e-5}, "TransformersAdafactor"),
        ({"optim": "adamw_8bit", "learning_rate": 5e-5, "weight_decay": 0.01}, "AdamW"),
        ({"optim": "lion_8bit", "learning_rate": 5e-5}, "Lion"),
        ({"optim": "sgd", "learning_rate": 1e-3, "adam_beta1": 0.9}, "SGD"),
    ],
    ids=["adamw_torch", "adafactor", "adamw_8bit", "lion_8bit", "sgd"],
)
def test_different_optimizer_types(given: dict[str, Any], rule: str) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    trainer = Trainer(classifier(), TrainingArguments(output_dir="./o", **QUIET, **given), train_dataset=Sentences())
    groups = trainer.optimizer.param_groups
    # In 8 bits embeddings have a group of their own, which keeps float32.
    assert {group["rule"] for group in groups} == {rule}
    assert {group["lr"] for group in groups} == {given["learning_rate"]}
    assert {group["weight_decay"] for group in groups} == {given.get("weight_decay", 0.0), 0.0}
    if rule == "SGD":
        assert groups[0]["momentum"] == 0.9
    assert trainer.optimizer.state_dtype == ("8bit" if given["optim"].endswith("8bit") else None)
    trainer.train()
    assert trainer.state.global_step == 12


@pytest.mark.parametrize(
    ("given", "at"),
    [
        # What transformers documents, at a step of the warm-up, at its end, and of the twelve's middle.
        ({"lr_scheduler_type": "linear", "warmup_ratio": 0.1}, {1: 0.5, 2: 1.0, 7: 0.5}),  # ⌈1.2⌉ = 2 steps
        ({"lr_scheduler_type": "cosine", "warmup_steps": 4}, {1: 0.25, 4: 1.0, 8: 0.5}),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.05}, {0: 0.0, 1: 1.0, 7: 1.0}),  # ⌈0.6⌉ = 1
        # (10⁻⁷ + (5·10⁻⁵ − 10⁻⁷)·(1 − 4/8)²) / 5·10⁻⁵ at step 8
        (
            {"lr_scheduler_type": "polynomial", "warmup_steps": 4, "lr_scheduler_kwargs": {"power": 2.0}},
            {2: 0.5, 4: 1.0, 8: 0.002 + 0.998 * 0.25},
        ),
        (
            {"lr_scheduler_type": "wsd", "warmup_steps": 2, "lr_scheduler_kwargs": {"decay": 4}},
            {1: 0.5, 5: 1.0, 10: 1 - 0.5**0.5},  # two of the decay's four steps: 1 − √½
        ),
        ({"lr_scheduler_type": "Linear(end=0.5)", "warmup_steps": 0.5}, {3: 0.5, 6: 1.0, 9: 0.75}),
    ],
    ids=["linear", "cosine", "constant_with_warmup", "polynomial", "wsd", "written out"],
)
def test_different_scheduler_types(given: dict[str, Any], at: dict[int, float]) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(output_dir="./s", **QUIET, **given)
    trainer = Trainer(model=classifier(), args=arguments, train_dataset=Sentences())  # four batches, three times
    assert arguments.lr_scheduler_type == given["lr_scheduler_type"]
    factor = trainer.lr_scheduler.lr_lambdas[0]
    assert {step: factor(step) for step in at} == pytest.approx(at)
    assert trainer.lr_scheduler.optimizer is trainer.optimizer


def test_parameter_groups_inspected() -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    model = classifier()
    arguments = TrainingArguments(output_dir="./inspect", **QUIET, learning_rate=5e-5, weight_decay=0.01)
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences())
    seen: list[str] = []
    for group, decay in zip(trainer.optimizer.param_groups, (0.01, 0.0), strict=True):
        assert group["lr"] == 5e-5
        assert group["weight_decay"] == decay
        members = {id(p) for p in group["params"]}
        names = [name for name, p in model.named_parameters() if id(p) in members]
        assert names == group["param_names"]
        assert all(("bias" in name or "LayerNorm" in name) is (decay == 0.0) for name in names)
        seen += names
    assert sorted(seen) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("optim", ["adamw_torch", "muon", "schedule_free_adamw"])
def test_resuming_with_more_epochs(optim: str) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    common = {**QUIET, "save_strategy": "steps", "save_steps": 3, "optim": optim, "learning_rate": 1e-3}
    schedule = {} if optim == "schedule_free_adamw" else {"lr_scheduler_type": "constant"}

    def trained(resume: str | None, **changes: Any) -> tuple[Any, list[torch.Tensor]]:
        model = classifier()
        arguments = TrainingArguments(output_dir="./checkpoints", **common, **schedule, **changes)
        trainer = Trainer(model=model, args=arguments, train_dataset=Sentences())
        trainer.train(resume_from_checkpoint=resume)
        return trainer, weights(model)

    trained(None, num_train_epochs=1)  # four steps, saved after the third
    resumed, ours = trained("./checkpoints/checkpoint-3", num_train_epochs=2)
    assert resumed.state.global_step == 8
    _, whole = trained(None, num_train_epochs=2)
    assert all(map(torch.equal, ours, whole))


def test_a_resumed_schedule_goes_on_over_the_new_horizon(caplog: pytest.LogCaptureFixture) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    def trainer(epochs: int) -> Any:
        arguments = TrainingArguments(
            output_dir="./checkpoints",
            **{**QUIET, "save_strategy": "steps", "logging_strategy": "steps"},
            save_steps=2,
            logging_steps=1,
            num_train_epochs=epochs,
            learning_rate=1e-3,
        )
        return Trainer(model=classifier(), args=arguments, train_dataset=Sentences())

    trainer(1).train()  # linear to 0 over four steps
    resumed = trainer(2)
    resumed.train(resume_from_checkpoint="./checkpoints/checkpoint-2")
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if "learning_rate" in entry]
    # 1 and ¾ of four steps; then, of eight, what is left after two: ¾, ⅝, …
    assert rates == pytest.approx([1e-3, 0.75e-3, *(1e-3 * (8 - step) / 8 for step in range(2, 8))])
    assert "resumed at step 2: next lr = 0.00075, was 0.0005" in caplog.text
