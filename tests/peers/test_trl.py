"""TRL's SFTTrainer with the mixins: a tiny GPT-2, made from its configuration, learns made-up sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from peers.small_trainer import difference, gpt2

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours

WORDS = ["<eos>", "<pad>", "the", "a", "well", "step", "is", "reached", "taken", "by", "bottom", "of"]
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 2,
    "max_length": 12,
}


@pytest.fixture
def trl() -> Any:
    return pytest.importorskip("trl")


def sentences() -> Any:
    datasets = pytest.importorskip("datasets")
    texts = ["the bottom of a well is reached by a step", "a step is taken", "the well is reached", "by the step"]
    return datasets.Dataset.from_dict({"text": 2 * texts})


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>")


def ours(trl: Any) -> tuple[Any, Any]:
    """SFTTrainer and SFTConfig with the mixins."""
    from stepwell.integrations.huggingface import TrainerMixin, TrainingArgumentsMixin

    @dataclass
    class Arguments(TrainingArgumentsMixin, trl.SFTConfig):
        pass

    class Trainer(TrainerMixin, trl.SFTTrainer):
        pass

    return Trainer, Arguments


def test_muon_and_adamw_in_sft(trl: Any, tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import stepwell_callback

    trainer_class, arguments_class = ours(trl)
    arguments = arguments_class(
        str(tmp_path), **QUIET, optim="muon", learning_rate=0.01, num_train_epochs=10, logging_steps=4
    )
    trainer = trainer_class(
        gpt2(),
        arguments,
        train_dataset=sentences(),
        processing_class=tokenizer(),
        callbacks=[stepwell_callback],
    )
    assert {group["rule"] for group in trainer.optimizer.param_groups} == {"Muon", "AdamW"}
    trainer.train()
    told = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == 40
    assert told[-1]["loss"] < 0.5 * told[0]["loss"]
    assert told[0]["update_rms/adamw"] > 0
    assert "mean_token_accuracy" in told[0]  # TRL's own


def test_the_weights_of_trls_own_adamw(trl: Any, tmp_path: Path) -> None:
    models = []
    for trainer_class, arguments_class in ((trl.SFTTrainer, trl.SFTConfig), ours(trl)):
        arguments = arguments_class(str(tmp_path), **QUIET, learning_rate=1e-3, weight_decay=0.1, max_steps=10)
        model = gpt2()
        trainer = trainer_class(model, arguments, train_dataset=sentences(), processing_class=tokenizer())
        trainer.train()
        models.append(model)
    assert isinstance(trainer.optimizer.optimizer, stepwell.Optimizer)
    assert difference(models[0], gpt2()) > 1e-3
    # The same arithmetic, rounded at other places.
    assert difference(*models) < 1e-6


def test_lora_in_sft(trl: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    trainer_class, arguments_class = ours(trl)
    model = gpt2()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = trainer_class(
        model,
        arguments_class(str(tmp_path), **QUIET, optim="lion", learning_rate=1e-3, max_steps=2),
        train_dataset=sentences(),
        processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(trained) == 4  # A, B, 2 blocks
    assert all("lora" in name for name in trained)
    assert all(bool(p.detach().any()) for name, p in trained.items() if "lora_B" in name)  # which starts at zero
    after = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): p
        for name, p in trainer.model.named_parameters()
    }
    assert all(torch.equal(after[name], value) for name, value in before.items() if name in after)
