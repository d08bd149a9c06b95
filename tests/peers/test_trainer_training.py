"""Our Trainer and transformers' own: the same weights, the right weights, what is handed in and what is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import stepwell
from peers.small_trainer import QUIET, Sentences, classifier, gpt2, weights

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours


def test_a_recipe_from_a_preset_and_from_a_file(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    stepwell.Recipe.preset("muon-original").set(momentum=0.9).save(tmp_path / "mine.toml")
    arguments = TrainingArguments(str(tmp_path), **QUIET, optim=str(tmp_path / "mine.toml"), learning_rate=0.01)
    trainer = Trainer(gpt2(), arguments, train_dataset=Sentences(classes=False))
    groups = {group["name"]: group for group in trainer.optimizer.param_groups}
    assert trainer.plan is not None
    assert set(groups) >= {"adamw", "adamw undecayed"}
    hidden = next(group for name, group in groups.items() if name.startswith("hidden"))
    assert hidden["momentum"] == 0.9
    # The first route's rate is 0.02 in the preset; the other's, 3e-4, keeps its ratio.
    assert (hidden["lr"], groups["adamw"]["lr"]) == pytest.approx((0.01, 1.5e-4))
    assert arguments.lr_scheduler_type == "recipe"
    # Cosine(warmup=0.1) over twelve steps: one step of warm-up.
    trainer.train()
    assert trainer.lr_scheduler.schedules == {"lr": stepwell.schedules.Cosine(warmup=1, horizon=12)}
    assert trainer.state.global_step == 12


def test_layer_wise_rates(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), **QUIET, optim="adamw_torch", layer_decay=0.5, learning_rate=1e-3)
    trainer = Trainer(classifier(), arguments, train_dataset=Sentences())
    rates = {name: group["lr"] for group in trainer.optimizer.param_groups for name in group["param_names"]}
    # Two blocks: the head stands at depth 3, the blocks at 2 and 1, the embeddings at 0.
    assert rates["classifier.weight"] == rates["classifier.bias"] == 1e-3
    assert rates["bert.encoder.layer.1.output.dense.weight"] == 0.5e-3
    assert rates["bert.encoder.layer.0.output.LayerNorm.bias"] == 0.25e-3
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.125e-3
    trainer.train()
    assert sorted(set(trainer.lr_scheduler.base_lrs)) == [0.125e-3, 0.25e-3, 0.5e-3, 1e-3]


def test_an_optimizer_and_a_scheduler_that_are_handed_in(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    trainer = Trainer(
        model, TrainingArguments(str(tmp_path), **QUIET), train_dataset=Sentences(), optimizers=(optimizer, scheduler)
    )
    assert (trainer.optimizer, trainer.lr_scheduler) == (optimizer, scheduler)
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    assert trainer.lr_scheduler is scheduler
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 13)  # after twelve steps


def test_a_class_of_optimizers_and_its_arguments(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    trainer = Trainer(
        classifier(),
        TrainingArguments(str(tmp_path), **QUIET, weight_decay=0.3),
        train_dataset=Sentences(),
        optimizer_cls_and_kwargs=(stepwell.Lion, {"lr": 1e-4, "betas": (0.8, 0.9)}),
    )
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, stepwell.Lion)
    decays = [(group["weight_decay"], group["betas"]) for group in trainer.optimizer.param_groups]
    assert decays == [(0.3, (0.8, 0.9)), (0.0, (0.8, 0.9))]


def test_the_mixin_on_another_trainer(tmp_path: Path) -> None:
    from dataclasses import dataclass, field

    import transformers

    from stepwell.integrations.huggingface import TrainerMixin, TrainingArgumentsMixin

    @dataclass
    class TheirArguments(transformers.TrainingArguments):
        learning_rate: float = field(default=3e-4)
        margin: float = field(default=0.1)

    class TheirTrainer(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(model, inputs, *args, **kwargs) + self.args.margin

    @dataclass
    class Arguments(TrainingArgumentsMixin, TheirArguments):
        pass

    class Trainer(TrainerMixin, TheirTrainer):
        pass

    assert Arguments(str(tmp_path), **QUIET).learning_rate == 3e-4  # the default of the class that it is added to
    trainer = Trainer(
        classifier(), Arguments(str(tmp_path), **QUIET, optim="Lion", margin=5), train_dataset=Sentences()
    )
    assert {group["rule"] for group in trainer.optimizer.param_groups} == {"Lion"}
    output = trainer.train()
    assert output.training_loss > 5
    plain = Trainer(classifier(), TheirArguments(str(tmp_path), **QUIET), train_dataset=Sentences())
    plain.train()  # with arguments that know nothing of stepwell, it is theirs
    assert type(plain.optimizer.optimizer) is torch.optim.AdamW


def test_methods_of_the_trainer_that_is_mixed_into_are_asked_where_nothing_else_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import transformers

    from stepwell.integrations import huggingface

    class Theirs(transformers.Trainer):
        def create_optimizer(self, model: Any = None) -> Any:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
            return self.optimizer

        def create_scheduler(self, num_training_steps: int) -> Any:  # without the optimizer, as of old
            self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, total_iters=num_training_steps)
            return self.lr_scheduler

    class Mixed(huggingface.TrainerMixin, Theirs):
        pass

    class Other(huggingface.Trainer):
        @staticmethod
        def get_optimizer_cls_and_kwargs(*_: Any) -> Any:
            return torch.optim.SGD, {"lr": 0.123}

    def made(kind: Any, **given: Any) -> Any:
        arguments = huggingface.TrainingArguments(str(tmp_path), **QUIET, max_steps=2, **given)
        return kind(classifier(), arguments, train_dataset=Sentences())

    trainer = made(Mixed, learning_rate=1e-3)
    assert type(trainer.optimizer) is torch.optim.SGD
    assert trainer.lr_scheduler is None  # theirs waits for the training
    trainer.train()
    assert type(trainer.lr_scheduler) is torch.optim.lr_scheduler.ConstantLR
    assert made(Other).optimizer.param_groups[0]["lr"] == 0.123

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "stepwell"]

    assert not warnings()
    for _ in range(2):  # and says so once
        named = made(Mixed, optim="Lion", lr_scheduler_type="cosine")
        assert named.optimizer.param_groups[0]["rule"] == "Lion"
        assert isinstance(named.lr_scheduler, stepwell.Scheduler)
        assert made(Other, layer_decay=0.8).optimizer.param_groups[0]["rule"] == "AdamW"
    assert [line.partition(", which")[0] for line in warnings()] == [
        "optim='Lion' goes before Theirs.create_optimizer",
        "lr_scheduler_type='cosine' goes before Theirs.create_scheduler",
        "layer_decay=0.8 goes before Other.get_optimizer_cls_and_kwargs",
    ]


def test_schedule_free_is_evaluated_and_saved_on_the_average(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    held: list[str] = []

    class Watching(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            held.append(self.optimizer.param_groups[0]["holds"])
            return loss

        def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
            held.append(f"evaluated on {self.optimizer.param_groups[0]['holds']}")
            return super().prediction_step(*args, **kwargs)

    arguments = TrainingArguments(
        str(tmp_path),
        **{**QUIET, "save_strategy": "steps", "save_steps": 4},
        optim="schedule_free_adamw",
        learning_rate=1e-2,
        warmup_ratio=0.25,
        max_steps=8,
        eval_strategy="steps",
        eval_steps=4,
        per_device_eval_batch_size=8,
        load_best_model_at_end=True,
    )
    assert arguments.lr_scheduler_type == "constant"
    model = classifier()
    trainer = Watching(model, arguments, train_dataset=Sentences(), eval_dataset=Sentences(4))
    assert trainer.optimizer.param_groups[0]["warmup_steps"] == 2  # a quarter of eight, in the rule itself
    trainer.train()
    once = [*["training"] * 4, "evaluated on averaged"]
    assert held == once * 2
    assert trainer.optimizer.param_groups[0]["holds"] == "averaged"
    best = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items() if name in best)
    # The checkpoint holds the averages: what its optimizer makes of them is the weights that were trained on.
    saved = load_file(tmp_path / "checkpoint-8" / "model.safetensors")
    average = {name: value.clone() for name, value in saved.items()}
    model.load_state_dict(saved, strict=False)
    trainer.optimizer.train()
    moved = [name for name, p in model.named_parameters() if not torch.allclose(p, average[name], atol=1e-6)]
    assert "bert.encoder.layer.0.output.dense.weight" in moved
    trainer.save_model(str(tmp_path / "last"))
    again = load_file(tmp_path / "last" / "model.safetensors")
    assert all(torch.allclose(again[name], average[name], atol=1e-5) for name in average)


def test_plateau(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path),
        **QUIET,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"factor": 0.5, "patience": 0, "threshold": 10.0, "threshold_mode": "abs"},
        learning_rate=0.08,
        optim="sgd",
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer = Trainer(classifier(), arguments, train_dataset=Sentences(), eval_dataset=Sentences(4))
    assert isinstance(trainer.lr_scheduler, stepwell.ReduceOnPlateau)
    trainer.train()
    # The first evaluation is the best so far; the other two are not better by 10, so the rate is halved twice.
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.02, 0.02]


def test_greedy_is_transformers_own(tmp_path: Path) -> None:
    from transformers.optimization import GreedyLR

    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path), **QUIET, lr_scheduler_type="greedy", max_steps=2, eval_strategy="steps", eval_steps=1
    )
    trainer = Trainer(classifier(), arguments, train_dataset=Sentences(), eval_dataset=Sentences(4))
    trainer.train()
    assert isinstance(trainer.lr_scheduler, GreedyLR)


def test_gradients_are_clipped_once_and_by_the_recipes_norm(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    recipe = stepwell.Recipe.preset("finetune").replace(clip_norm=0.25)
    recipe.save(tmp_path / "mine.json")
    arguments = TrainingArguments(str(tmp_path), **QUIET, optim=str(tmp_path / "mine.json"))
    assert arguments.max_grad_norm == 0.25
    trainer = Trainer(classifier(), arguments, train_dataset=Sentences())
    assert trainer.optimizer.clip_norm is None  # the Trainer clips


def test_the_callback_tells_the_plan_and_the_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import transformers

    from stepwell.integrations.huggingface import Trainer, TrainingArguments, stepwell_callback

    heard: list[dict[str, float]] = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            heard.append(dict(logs))

    arguments = TrainingArguments(
        str(tmp_path),
        **{**QUIET, "logging_strategy": "steps", "logging_steps": 2},
        optim="adamw_torch",
        layer_decay=0.5,
        learning_rate=1e-3,
        max_steps=4,
    )
    with caplog.at_level(logging.INFO, "stepwell"):
        trainer = Trainer(classifier(), arguments, train_dataset=Sentences(), callbacks=[Reporter, stepwell_callback])
        trainer.train()
    assert "training of 4 steps:\n" in caplog.text
    assert "adamw_torch depth 3" in caplog.text
    told = [logs for logs in heard if "loss" in logs]
    # Linear to 0 over four steps: ¾ and ¼ of the rate at the second and the fourth, which are logged.
    assert [logs["lr/adamw_torch depth 3"] for logs in told] == pytest.approx([0.75e-3, 0.25e-3])
    assert [logs["lr/adamw_torch depth 0"] for logs in told] == pytest.approx([0.75e-3 / 8, 0.25e-3 / 8])
    assert [logs["learning_rate"] for logs in told] == pytest.approx([0.75e-3 / 8, 0.25e-3 / 8])
    # Adam's steps are about as long as their rate at first.
    assert 0.1 * 0.75e-3 < told[0]["update_rms/adamw_torch depth 3"] < 2 * 0.75e-3
    assert [logs for logs in heard if "train_runtime" in logs and "lr/adamw_torch depth 3" in logs] == []


def test_the_callback_with_transformers_own_trainer(tmp_path: Path) -> None:
    import transformers

    from stepwell.integrations.huggingface import stepwell_callback

    model = classifier()
    optimizer = stepwell.create_optimizer(model, "muon", clip_norm=1.0)
    arguments = transformers.TrainingArguments(
        str(tmp_path), **{**QUIET, "logging_strategy": "steps", "logging_steps": 2}, max_steps=2
    )
    trainer = transformers.Trainer(
        model, arguments, train_dataset=Sentences(), optimizers=(optimizer, None), callbacks=[stepwell_callback()]
    )
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert {"lr/hidden", "lr/adamw", "lr/adamw undecayed", "gradient_norm", "update_to_weight/hidden"} <= set(entry)


def test_a_plan_has_the_horizon_and_the_warm_up_of_the_training(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), **QUIET, optim="muon", warmup_steps=3)
    looked = Trainer(gpt2(), arguments, train_dataset=Sentences(classes=False))
    assert looked.optimizer is not None
    assert looked.plan is not None
    assert (looked.plan.horizon, looked.plan.warnings) == (12, ())
    looked.train()
    trained = Trainer(gpt2(), arguments, train_dataset=Sentences(classes=False))
    trained.train()
    for trainer in (looked, trained):
        assert trainer.plan is not None
        assert trainer.plan.horizon == 12
        assert trainer.plan.recipe.schedules == {"lr": stepwell.schedules.Cosine(warmup=3)}


def test_a_recipes_warm_up_that_is_longer_than_the_training(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    trainer = Trainer(gpt2(), TrainingArguments(str(tmp_path), **QUIET, optim="llama"), train_dataset=Sentences())
    with pytest.raises(ValueError, match=r"^optim='llama': .* steps, got 2000; warmup_steps or warmup_ratio set an"):
        trainer.train()


@pytest.mark.parametrize("optim", ["schedule_free_adamw", "ScheduleFreeSGD"])
@pytest.mark.parametrize(("given", "steps"), [({"optim_args": "warmup_steps=5"}, 5), ({"warmup_ratio": 0.5}, 6)])
def test_the_warm_up_of_a_schedule_free_rule(optim: str, given: dict[str, Any], steps: int, tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), **QUIET, optim=optim, **given)
    optimizer = Trainer(classifier(), arguments, train_dataset=Sentences()).optimizer
    assert {group["warmup_steps"] for group in optimizer.param_groups} == {steps}


def test_nothing_is_made_where_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), **QUIET)
    trainer = Trainer(classifier(), arguments, eval_dataset=Sentences(4))
    assert (trainer.optimizer, trainer.lr_scheduler) == (None, None)
    assert "eval_loss" in trainer.evaluate()
    evaluated = Trainer(classifier(), arguments, train_dataset=Sentences(), eval_dataset=Sentences(4))
    evaluated.evaluate()
    evaluated.save_model(str(tmp_path / "model"))
    assert evaluated.__dict__["_optimizer"] is None


def test_looking_at_the_scheduler_changes_no_training(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    found = []
    for look in (False, True):
        model = classifier()
        trainer = Trainer(model, TrainingArguments(str(tmp_path), **QUIET), train_dataset=Sentences())
        if look:
            assert trainer.lr_scheduler.horizon is None or trainer.lr_scheduler.horizon == 12
        trainer.train()
        found.append(weights(model))
    assert all(map(torch.equal, *found))


def test_a_model_that_is_made_for_each_training(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    trainer = Trainer(args=TrainingArguments(str(tmp_path), **QUIET), model_init=classifier, train_dataset=Sentences())
    assert trainer.optimizer is None
    trainer.train()
    first = trainer.optimizer.optimizer
    trainer.train()
    assert trainer.optimizer.optimizer is not first
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in trainer.model.parameters()
    }


@pytest.mark.parametrize("accumulation", [1, 3])
def test_bfloat16_and_accumulation(accumulation: int, tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path), **QUIET, bf16=True, gradient_accumulation_steps=accumulation, num_train_epochs=2, optim="lion"
    )
    trainer = Trainer(classifier(), arguments, train_dataset=Sentences())
    trainer.train()
    # Four batches an epoch; three and one make two steps.
    assert trainer.state.global_step == trainer.lr_scheduler.last_epoch == {1: 8, 3: 4}[accumulation]
