"""What `optim` and `lr_scheduler_type` name, without transformers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from stepwell.integrations.huggingface import SchedulerType
from stepwell.integrations.huggingface.choosing import TWINS, choose
from stepwell.integrations.huggingface.scheduling import make_scheduler, named_schedule, warmed_up
from stepwell.recipes import PRESETS
from stepwell.schedules import Constant, Cosine, OneCycle
from stepwell.schedules.schedule import schedule_names

THEIRS = [*TWINS, "lomo"]


def test_it_can_be_imported_without_transformers() -> None:
    code = "import sys; import stepwell.integrations.huggingface as hf; hf.get_scheduler\n"
    code += "assert not {'transformers', 'accelerate'} & set(sys.modules), 'imported'\n"
    code += "sys.modules['transformers'] = None; import importlib.metadata as m; old = m.version\n"
    code += "def version(name):\n"
    code += "    if name == 'transformers': raise m.PackageNotFoundError(name)\n"
    code += "    return old(name)\n"
    code += "m.version = version\n"
    code += "for name in ('Trainer', 'TrainingArguments', 'stepwell_callback'):\n"
    code += "    try: getattr(hf, name)\n"
    code += "    except ImportError as error: print(error)\n"
    code += "m.version = lambda name: '4.30.2' if name == 'transformers' else old(name)\n"
    code += "try: hf.Trainer\n"
    code += "except ImportError as error: print(error)\n"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    missing = "transformers is not installed: pip install 'stepwell[huggingface]'"
    old = "transformers 4.30.2 is too old, 4.57 is needed: pip install 'stepwell[huggingface]' --upgrade"
    assert ran.stdout.splitlines() == [missing] * 3 + [old]


def test_an_unknown_attribute() -> None:
    from stepwell.integrations import huggingface

    with pytest.raises(AttributeError, match=r"^module 'stepwell.integrations.huggingface' has no attribute 'Traner'$"):
        _ = huggingface.Traner


@pytest.mark.parametrize("name", sorted(TWINS))
def test_names_of_transformers_with_a_twin(name: str) -> None:
    assert choose(name, "stepwell", THEIRS).origin == "transformers"
    assert choose(name, "stepwell", THEIRS).recipe is not None
    assert choose(name, "transformers", THEIRS).recipe is None


def test_whose_a_name_is(tmp_path: Path) -> None:
    mine = stepwell.Recipe.preset("muon").set(lr=3e-4)
    mine.save(tmp_path / "mine.toml")
    assert choose(str(tmp_path / "mine.toml"), "stepwell", THEIRS).recipe == mine
    for preset in set(PRESETS) - set(TWINS):
        assert choose(preset, "stepwell", THEIRS).recipe == PRESETS[preset]
    for rule in ("Tiger", "cautious(AdamW)", "AdEMAMix"):
        chosen = choose(rule, "stepwell", THEIRS)
        assert chosen.origin == "rule"
        assert chosen.recipe is not None
        assert len(chosen.recipe.routes) == 1
    assert choose("lomo", "stepwell", THEIRS).recipe is None
    assert [choose(name, "stepwell", THEIRS).averages for name in ("schedule_free_sgd", "schedule-free", "lion")] == [
        True,
        True,
        False,
    ]


def test_an_unknown_optimizer_lists_near_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown optim 'adamw_toch' \(did you mean 'adamw_torch'.* or "):
        choose("adamw_toch", "stepwell", THEIRS)
    with pytest.raises(ValueError, match=r"^unknown optim 'lyon' \(did you mean .*'lion'"):
        choose("lyon", "stepwell", THEIRS)
    with pytest.raises(ValueError, match=r"^unknown optim 'lomo'"):
        choose("lomo", "stepwell", [])


def test_whose_a_schedule_is() -> None:
    assert named_schedule("cosine", None) is SchedulerType.COSINE
    assert named_schedule("polynomial", {"power": 2.0}) is SchedulerType.POLYNOMIAL
    assert named_schedule("cosine", {"end": 0.1}) == Cosine(end=0.1)
    assert named_schedule("one-cycle", {"rise": 0.2}) == OneCycle(rise=0.2)
    assert named_schedule("Cosine(warmup=0.1, end=0.1)", None) == Cosine(warmup=0.1, end=0.1)


def test_an_unknown_schedule_lists_near_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown lr_scheduler_type 'cosin' \(did you mean 'cosine'"):
        named_schedule("cosin", None)
    with pytest.raises(TypeError, match=r"^unknown argument 'power' for the schedule 'linear'; it takes"):
        named_schedule("linear", {"power": 2.0})
    with pytest.raises(TypeError, match=r"^Step needs every: give every=… in lr_scheduler_kwargs$"):
        named_schedule("step", None)
    with pytest.raises(TypeError, match=r"^Step needs every: give every=…$"):
        named_schedule("Step()", None)
    with pytest.raises(TypeError, match=r"carries its own arguments: write end into it$"):
        named_schedule("Cosine(warmup=0.1)", {"end": 0.1})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("linear", None, "warmup_steps must be at most the number of training steps, which is 20, got 1000"),
        ("cosine_with_min_lr", None, "give one of min_lr and min_lr_rate in lr_scheduler_kwargs, got None and None"),
        (
            "warmup_stable_decay",
            None,
            "the schedule 'warmup_stable_decay' needs num_decay_steps: give num_decay_steps=… in lr_scheduler_kwargs",
        ),
        (
            "linear",
            {"wramup": 0.1},
            "unknown argument 'wramup' for the schedule 'linear'; it takes last_epoch, horizon, warmup, end "
            "(did you mean 'warmup'?)",
        ),
        ("cosine", {"end": 0.1, "num_cycles": 1}, "unknown argument 'end' for the schedule 'cosine'; it takes "),
    ],
)
def test_errors_name_what_a_trainer_is_given(name: str, arguments: dict[str, Any] | None, message: str) -> None:
    optimizer = stepwell.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    warmup_steps = 1000 if name == "linear" else 0
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        make_scheduler(optimizer, name, arguments, horizon=20, warmup_steps=warmup_steps)


NEEDED: dict[str, dict[str, Any]] = {
    "CosineRestarts": {"cycles": 2},
    "Cyclic": {"up": 2},
    "Exponential": {"gamma": 0.9},
    "Knee": {"explore": 0.5},
    "MultiStep": {"at": (5,)},
    "Power": {"flat": 5},
    "Noam": {"width": 16},
    "Step": {"every": 4},
}
COMPOSITIONS = {"Warmup", "Clamp", "Shift", "Repeat", "Product", "Function", "Sequence"}


def test_every_schedule_has_its_warm_up() -> None:
    names = {name for name in schedule_names() if hasattr(stepwell.schedules, name)} - COMPOSITIONS
    for name in sorted(names):
        optimizer = stepwell.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.5)
        scheduler = make_scheduler(optimizer, name, NEEDED.get(name), horizon=20, warmup_steps=4)
        factors = [scheduler.lr_lambdas[0](step) for step in range(5)]
        # A linear warm-up reaches what follows after four steps; Noam, after the paper, counts steps from 1.
        start = 1 if name == "Noam" else 0
        assert factors[:3] == pytest.approx([factors[4 - start] * (step + start) / 4 for step in range(3)]), name


def test_a_warm_up_is_given_once() -> None:
    optimizer = stepwell.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    with pytest.raises(ValueError, match=r"^the warm-up is given twice: Cosine\(warmup=0.1\)"):
        make_scheduler(optimizer, "Cosine(warmup=0.1)", None, horizon=20, warmup_steps=4)


def test_a_recipe_warmed_up() -> None:
    recipe = stepwell.Recipe(
        routes=(stepwell.Route(rule="Muon", name="a", schedules={"lr": OneCycle()}), stepwell.Route(rule="AdamW")),
        schedules={"lr": Cosine(warmup=0.1), "weight_decay": Constant()},
    )
    warm = warmed_up(recipe, 7)
    assert warm.schedules == {"lr": Cosine(warmup=7), "weight_decay": Constant()}
    assert warm.routes[0].schedules == {"lr": stepwell.schedules.warmup(OneCycle(), 7)}
    assert warmed_up(recipe, 0) is recipe
