"""Optimizers of transformers' names: what its own Trainer does with them, ours does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import stepwell
from peers.small_trainer import QUIET, Sentences, classifier, difference

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours

# Which transformers' own AdEMAMix is.
HAS_BITSANDBYTES = find_spec("bitsandbytes") is not None
LINEAR = {"lr_scheduler_type": "linear", "learning_rate": 1e-3, "weight_decay": 0.1}


def without_biases_of_keys() -> Any:
    """The classifier; softmax overlooks the bias of keys: its gradient is rounding, which Adafactor makes a step of."""
    model = classifier()
    for name, p in model.named_parameters():
        p.requires_grad_("key.bias" not in name)
    return model


def test_the_weights_of_transformers_own_adamw_after_fifty_steps(tmp_path: Path) -> None:
    import transformers

    from stepwell.integrations import huggingface

    models = []
    for library in (transformers, huggingface):
        model = classifier()
        arguments = library.TrainingArguments(str(tmp_path), **QUIET, **LINEAR, max_steps=50, warmup_steps=5)
        library.Trainer(model, arguments, train_dataset=Sentences(16)).train()
        models.append(model)
    start = classifier()
    assert difference(models[0], start) > 0.01  # steps of about the rate
    # The same arithmetic, rounded at other places: a few ulp of weights below 1, after fifty steps.
    assert difference(*models) < 1e-6


def test_the_numbers_of_transformers_own_ademamix(tmp_path: Path) -> None:
    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), **QUIET, optim="ademamix", adam_beta1=0.8)
    (group, *_) = Trainer(classifier(), arguments, train_dataset=Sentences()).create_optimizer().param_groups
    assert (group["rule"], group["lr"], group["eps"]) == ("AdEMAMix", 5e-5, 1e-8)
    assert (group["betas"], group["alpha"]) == ((0.8, 0.999, 0.9999), 5.0)


@pytest.mark.parametrize(
    ("optim", "given"),
    [
        ("adamw_torch", {"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6}),
        pytest.param(
            "ademamix",
            {"adam_beta1": 0.8},
            marks=pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed"),
        ),
        ("sgd", {"optim_args": "momentum=0.9, nesterov=true", "learning_rate": 0.1}),
        ("adagrad", {"optim_args": "lr_decay=0.1"}),
        ("rmsprop", {"optim_args": "momentum=0.5, alpha=0.9, centered=true"}),
        ("adafactor", {}),
        ("stable_adamw", {}),
        ("schedule_free_adamw", {"lr_scheduler_type": "constant", "warmup_steps": 3}),
        ("schedule_free_radam", {"lr_scheduler_type": "constant"}),
        ("schedule_free_sgd", {"lr_scheduler_type": "constant", "learning_rate": 0.1, "optim_args": "r=1"}),
    ],
)
def test_every_twin_does_what_transformers_own_does(
    optim: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optimi

    from stepwell.integrations.huggingface import Trainer, TrainingArguments

    class WithoutTriton(optimi.StableAdamW):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, triton=False, **kwargs)

    monkeypatch.setattr(optimi, "StableAdamW", WithoutTriton)  # where there is a Triton, it wants a GPU
    models = []
    for runs_on in ("transformers", "stepwell"):
        model = without_biases_of_keys()
        common: dict[str, Any] = {**QUIET, **LINEAR, "max_steps": 8, **given}
        trainer = Trainer(
            model,
            TrainingArguments(str(tmp_path), optim=optim, optim_runs_on=runs_on, **common),
            train_dataset=Sentences(),
        )
        trainer.train()
        assert isinstance(trainer.optimizer.optimizer, stepwell.Optimizer) is (runs_on == "stepwell")
        models.append(model)
    assert difference(models[0], classifier()) > 1e-4
    assert difference(*models) < 2e-6


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_a_training_begun_with_transformers_own_goes_on(optim: str, tmp_path: Path) -> None:
    import transformers

    from stepwell.integrations import huggingface

    common = {**QUIET, **LINEAR, "optim": optim, "save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    begun = without_biases_of_keys()
    arguments = transformers.TrainingArguments(str(tmp_path), **common)
    transformers.Trainer(begun, arguments, train_dataset=Sentences()).train()
    ended = without_biases_of_keys()
    trainer = huggingface.Trainer(
        ended, huggingface.TrainingArguments(str(tmp_path), **common), train_dataset=Sentences()
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert trainer.state.global_step == 8
    assert difference(begun, ended) < 1e-6


@pytest.mark.parametrize("options", [{}, {"warmup_init": True, "scale_parameter": True}])
def test_relative_steps_of_adafactor_are_those_of_transformers_and_told(
    options: dict[str, bool], tmp_path: Path
) -> None:
    import transformers

    from stepwell.integrations import huggingface

    common = {**QUIET, "max_steps": 6, "logging_strategy": "steps", "logging_steps": 1, "save_strategy": "steps"}
    model = without_biases_of_keys()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = transformers.Adafactor(trained, **({"scale_parameter": False} | options))
    pair = (optimizer, transformers.optimization.AdafactorSchedule(optimizer))
    arguments: Any = transformers.TrainingArguments(str(tmp_path / "theirs"), **common)
    peer = transformers.Trainer(model, arguments, train_dataset=Sentences(), optimizers=pair)
    peer.train()
    named = ", ".join(f"{name}=true" for name in (*options, "relative_step"))
    arguments = huggingface.TrainingArguments(
        str(tmp_path), **common, optim="adafactor", optim_args=named, save_steps=3
    )
    trainers = []
    for resumed in (None, str(tmp_path / "checkpoint-3")):
        trainer = huggingface.Trainer(without_biases_of_keys(), arguments, train_dataset=Sentences())
        trainer.train(resume_from_checkpoint=resumed)
        trainers.append(trainer)
    assert difference(model, without_biases_of_keys()) > 1e-6
    assert difference(model, trainers[0].model) < 2e-6
    assert difference(trainers[0].model, trainers[1].model) == 0
    told = [[float(entry["learning_rate"]) for entry in each.state.log_history[:6]] for each in (peer, *trainers)]
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    assert told[2] == told[1]
