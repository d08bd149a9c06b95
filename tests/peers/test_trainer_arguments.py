"""What our TrainingArguments take, what they come to, and what they say of mistakes."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from typing import Any

import pytest

from peers.small_trainer import QUIET, Sentences, classifier
from stepwell.integrations.huggingface.choosing import choose

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours

RELATIVE = {"optim": "adafactor", "optim_args": "relative_step=true"}


def arguments(**given: Any) -> Any:
    from stepwell.integrations.huggingface import TrainingArguments

    return TrainingArguments("out", **QUIET, **given)


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        ("adamw_torch", (5e-5, 0.0, 0.9, 0.999, 1e-8, 1.0, "linear")),  # transformers' own defaults
        ("ademamix", (5e-5, 0.0, 0.9, 0.999, 1e-8, 1.0, "linear")),
        ("sgd", (5e-5, 0.0, 0.0, 0.999, 1e-8, 1.0, "linear")),  # but for the momentum
        ("cautious(Lion)", (1e-4, 0.0, 0.9, 0.99, 1e-8, 1.0, "linear")),  # the paper's
        ("Prodigy", (1.0, 0.0, 0.9, 0.999, 1e-8, 1.0, "linear")),
        ("schedule_free_adamw", (5e-5, 0.0, 0.9, 0.999, 1e-8, 1.0, "constant")),
        ("muon-original", (0.02, 0.01, 0.9, 0.999, 1e-8, 1.0, "recipe")),
        ("llama", (3e-4, 0.1, 0.9, 0.95, 1e-5, 1.0, "recipe")),
    ],
)
def test_what_is_not_given(optim: str, expected: tuple[Any, ...]) -> None:
    made = arguments(optim=optim)
    names = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm")
    assert (*(getattr(made, name) for name in names), made.lr_scheduler_type) == expected
    assert made.optim == optim


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "Tiger", "lion", "muon-original", "llama", "schedule-free"])
def test_a_copy_trains_alike(optim: str) -> None:
    made = arguments(optim=optim, optim_args="weight_decay=0.3")
    for again in (dataclasses.replace(made), dataclasses.replace(dataclasses.replace(made))):
        assert again.recipe() == made.recipe()
        assert again.to_dict() == made.to_dict()
    assert made.to_json_string()


def test_the_command_line() -> None:
    from transformers import HfArgumentParser

    from stepwell.integrations.huggingface import TrainingArguments

    line = "--output_dir out --use_cpu --optim muon --optim_args betas=(0.8,0.9) --lr_scheduler_type wsd "
    line += '--lr_scheduler_kwargs {"decay":0.2} --warmup_ratio 0.1 --layer_decay 0.9'
    (parsed,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line.split())
    assert parsed.learning_rate == 1e-3  # the preset's
    assert parsed.recipe().layer_decay == 0.9
    assert parsed.recipe().defaults["betas"] == (0.8, 0.9)
    assert parsed.schedule().decay == 0.2
    assert parsed.get_warmup_steps(100) == 10


def test_warm_up() -> None:
    assert arguments(warmup_ratio=0.1).get_warmup_steps(11) == 2  # ⌈1.1⌉
    assert arguments(warmup_steps=7).get_warmup_steps(11) == 7
    assert arguments(warmup_steps=0.5).get_warmup_steps(11) == 6  # transformers 5 takes a share here, too
    assert arguments().get_warmup_steps(11) == 0


def test_of_two_warm_ups_the_steps_go_first(caplog: pytest.LogCaptureFixture) -> None:
    assert arguments(warmup_steps=7, warmup_ratio=0.1).get_warmup_steps(100) == 7
    assert "warmup_steps=7 goes before warmup_ratio=0.1" in caplog.text


@pytest.mark.parametrize("default", [0.0, None])
def test_transformers_sees_its_own_default_of_a_warm_up_that_is_a_share(default: float | None) -> None:
    # transformers 4.57 compares the number with 0; 5.0 writes any that is not None over warmup_steps; later there is no
    # such field.
    import transformers

    from stepwell.integrations.huggingface import TrainingArgumentsMixin

    seen = []

    @dataclasses.dataclass
    class Older(transformers.TrainingArguments):  # type: ignore[misc]
        warmup_ratio: float | None = default

        def __post_init__(self) -> None:
            seen.append(self.warmup_ratio)
            super().__post_init__()

    @dataclasses.dataclass
    class Arguments(TrainingArgumentsMixin, Older):
        pass

    assert Arguments("out", **QUIET).get_warmup_steps(100) == 0
    assert Arguments("out", **QUIET, warmup_ratio=0.1).get_warmup_steps(100) == 10
    assert Arguments("out", **QUIET, warmup_ratio=0.1, warmup_steps=7).get_warmup_steps(100) == 7
    assert seen == [default] * 3
    assert dataclasses.replace(Arguments("out", **QUIET, warmup_ratio=0.1)).warmup_ratio == 0.1


def test_an_optimizer_and_a_schedule_are_set_afterwards() -> None:
    made = arguments(optim="llama", num_train_epochs=5)
    assert made.set_lr_scheduler("WSD(decay=0.2)", max_steps=50, warmup_ratio=0.1) is made
    assert made.set_optimizer(name="lion", weight_decay=0.2, args="betas=(0.8, 0.9)") is made
    given = {"max_steps": 50, "warmup_ratio": 0.1, "weight_decay": 0.2, "optim_args": "betas=(0.8, 0.9)"}
    assert made.to_dict() == arguments(optim="lion", lr_scheduler_type="WSD(decay=0.2)", **given).to_dict()
    assert made.recipe().defaults["betas"] == (0.8, 0.9)
    assert made.get_warmup_steps(50) == 5
    assert made.set_optimizer("adamw_torch", beta1=0.8).learning_rate == 5e-5  # transformers' default
    before = made.to_dict()
    for mistake in (lambda: made.set_optimizer("lyon"), lambda: made.set_lr_scheduler("cosin")):
        with pytest.raises(ValueError, match=r"^unknown .* \(did you mean "):
            mistake()
    assert made.to_dict() == before
    assert made.set_optimizer("muon").set_lr_scheduler().lr_scheduler_type == "recipe"


def test_an_optimizer_that_is_set_as_an_attribute_brings_what_was_not_given() -> None:
    made = arguments(optim="muon", weight_decay=0.2)
    made.learning_rate = 0.03
    made.optim = "adamw_torch"
    assert made.to_dict() == arguments(optim="adamw_torch", learning_rate=0.03, weight_decay=0.2).to_dict()
    made = arguments(optim="adamw_torch").set_optimizer("lion", learning_rate=0.01)
    made.optim = "muon"
    assert made.to_dict() == arguments(optim="muon", learning_rate=0.01).to_dict()
    made.optim = "adalomo"
    assert (made.lr_scheduler_type, made.recipe()) == ("linear", None)
    made.lr_scheduler_type = "recipe"
    with pytest.raises(ValueError, match=r"^lr_scheduler_type='recipe' needs a recipe with a schedule, got optim='ada"):
        made.schedule()
    before = made.to_dict()
    with pytest.raises(ValueError, match=r"^unknown optim 'lyon' \(did you mean "):
        made.optim = "lyon"
    assert made.to_dict() == before


@pytest.mark.parametrize(("theirs", "ours"), [("linear", "wsd"), ("reduce_lr_on_plateau", "Cosine(warmup=0.1)")])
def test_names_are_of_one_type_whoever_has_them(theirs: str, ours: str) -> None:
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    made = arguments(optim="adalomo", lr_scheduler_type=theirs, eval_strategy="epoch", lr_scheduler_kwargs={})
    assert made.optim == OptimizerNames.ADALOMO
    assert made.lr_scheduler_type == SchedulerType(theirs)
    assert {SchedulerType(theirs): 1}[made.lr_scheduler_type] == 1
    assert made.lr_scheduler_type.value == made.to_dict()["lr_scheduler_type"] == theirs
    for name, value in (("lr_scheduler_type", ours), ("optim", "Lion")):  # as a search sets them
        setattr(made, name, type(getattr(made, name))(value))
    assert (made.lr_scheduler_type.value, made.recipe().routes[0].rule) == (ours, "Lion")
    made.lr_scheduler_type = type(made.lr_scheduler_type)(SchedulerType.COSINE)
    assert pickle.loads(pickle.dumps(made)).lr_scheduler_type == "cosine"


def test_no_name_of_transformers_is_a_rule_or_a_recipe() -> None:
    from transformers.training_args import OptimizerNames

    names = [each.value for each in OptimizerNames]
    assert {choose(name, "stepwell", names).origin for name in names} == {"transformers"}


def test_names_that_transformers_serves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stepwell"):
        for _ in range(2):
            made = arguments(optim="lomo", optim_args={"a": 1, "b": "x"})
    assert made.recipe() is None
    assert made.optim_args == "a=1,b=x"
    assert caplog.text.count("optim='lomo' runs on transformers' own optimizer") == 1
    assert arguments(optim="adamw_torch", optim_runs_on="transformers").recipe() is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"optim": "adamw_tosch"}, ValueError, r"^unknown optim 'adamw_tosch' \(did you mean 'adamw_torch'"),
        ({"optim": "nowhere.toml"}, ValueError, r"nowhere\.toml"),
        ({"optim_runs_on": "stepwel"}, ValueError, r"^optim_runs_on must be one of .* \(did you mean 'stepwell'\?\)$"),
        ({"lr_scheduler_type": "cosin"}, ValueError, r"^unknown lr_scheduler_type 'cosin' \(did you mean 'cosine'"),
        ({"lr_scheduler_type": "recipe"}, ValueError, r"^lr_scheduler_type='recipe' needs a recipe with a schedule"),
        (
            {"optim": "muon", "lr_scheduler_kwargs": {"end": 1}},
            TypeError,
            r"^lr_scheduler_type='recipe' takes no lr_scheduler_kwargs",
        ),
        ({"lr_scheduler_type": "wsd", "lr_scheduler_kwargs": {"decai": 3}}, TypeError, r"did you mean 'decay'\?\)$"),
        ({"optim_args": "betas=(0.9"}, ValueError, r"^optim_args does not parse at position 7 of 'betas=\(0.9'"),
        (
            {"optim": "stable_adamw", "optim_args": "eps=1e-8, max_lr=1"},
            TypeError,
            r"^unknown hyper-parameter 'max_lr' for StableAdamW.* \(optim_args, position 11\); "
            r"optim_runs_on='transformers' leaves it to transformers$",
        ),
        ({"optim": "muon", "adam_beta1": 0.8}, ValueError, r"^adam_beta1=0.8 says nothing to optim='muon'"),
        ({"optim": "SignSGD", "adam_epsilon": 0.8}, ValueError, r"^adam_epsilon=0.8 says nothing to optim='SignSGD'"),
        ({"learning_rate": -1.0}, ValueError, r"lr must be at least 0, got -1"),
        ({"weight_decay": -0.1}, ValueError, r"weight_decay must be at least 0, got -0.1"),
        ({"warmup_ratio": 1.5}, ValueError, r"^warmup_ratio must be in \[0, 1\], got 1.5$"),
        ({"warmup_steps": -1}, ValueError, r"^warmup_steps must be at least 0, got -1$"),
        ({"warmup_steps": "5"}, TypeError, r"^warmup_steps must be a number at least 0, got '5' of type str$"),
        ({"warmup_ratio": "0.1"}, TypeError, r"^warmup_ratio must be a number in \[0, 1\], got '0.1' of type str$"),
        (
            {"optim": "ScheduleFreeSGD", "optim_args": "warmup_steps=5", "warmup_ratio": 0.1},
            ValueError,
            r"^the warm-up is given twice: warmup_steps=5 in optim_args, and warmup_steps or warmup_ratio; leave",
        ),
        ({"layer_decay": 1.5}, ValueError, r"layer_decay must be in \(0, 1\), got 1.5"),
        (RELATIVE | {"learning_rate": 1e-9}, ValueError, r"^learning_rate=1e-09 says nothing to an Adafactor with rel"),
        (RELATIVE | {"lr_scheduler_type": "cosine"}, ValueError, r"^lr_scheduler_type='cosine' says nothing to an"),
        (RELATIVE | {"warmup_steps": 3}, ValueError, r"^warmup_steps=3 says nothing to an .*\(warmup_init=true is its"),
        (RELATIVE | {"warmup_ratio": 0.1}, ValueError, r"^warmup_ratio=0.1 says nothing to an Adafactor"),
        (RELATIVE | {"layer_decay": 0.9}, ValueError, r"^layer_decay=0.9 says nothing to an Adafactor"),
        (
            {"optim": "adafactor", "optim_args": "relative_step=true, lr=1e-3"},
            ValueError,
            r"^lr=0.001 says nothing to an Adafactor with relative_step=true, .*; leave it out, or write",
        ),
        ({"layer_decay": 0.9, "optim": "lomo"}, ValueError, r"^layer_decay needs an optimizer of stepwell"),
    ],
    ids=lambda value: None if isinstance(value, (type, str)) else ", ".join(value),
)
def test_mistakes(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        arguments(**given)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("constant", "'constant_with_warmup' has one$"),
        ("reduce_lr_on_plateau", "leave it out"),
        ("greedy", "'warmup' "),
    ],
)
def test_schedules_without_a_warm_up(name: str, way: str) -> None:
    from stepwell.integrations.huggingface import Trainer

    metric = {} if name == "constant" else {"eval_strategy": "epoch"}
    for steps in (3, 0):
        made = arguments(lr_scheduler_type=name, warmup_steps=steps, **metric)
        trainer = Trainer(classifier(), made, train_dataset=Sentences(), eval_dataset=Sentences())
        if steps:
            with pytest.raises(ValueError, match=rf"the schedule '{name}' has no warm-up.*; {way}"):
                trainer.create_scheduler(10)
        else:
            assert trainer.create_scheduler(10) is not None
