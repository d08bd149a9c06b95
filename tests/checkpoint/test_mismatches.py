"""What does not fit is listed and refused; or left fresh, and told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from checkpoint.small_training import Training, language_model, seed
from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError, MismatchError

Make = Callable[..., Training]


class Table:
    """Ways to make a training another than the one that was saved, and the lines that say so."""

    def __init__(self, lines: list[str], change: Callable[[], Training], refuse: bool = True) -> None:
        self.lines, self.change, self.refuse = lines, change, refuse


def changed(
    model: Callable[[nn.Sequential], None] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
) -> Callable[[], Training]:
    def make() -> Training:
        seed(8)
        made = language_model(tied=False)
        assert isinstance(made, nn.Sequential)
        if model is not None:
            model(made)
        held = (optimizer or adamw)(made)
        return Training(made, held, (scheduler or cosine)(held))

    return make


def adamw(model: nn.Module, **options: Any) -> stepwell.Optimizer:
    return stepwell.create_optimizer(model, "adamw", **{"lr": 0.01, **options})


def cosine(optimizer: torch.optim.Optimizer, horizon: int = 20) -> Any:
    return stepwell.create_scheduler(optimizer, "cosine", horizon=horizon, warmup=0.1)


def one_group(model: nn.Module) -> stepwell.Optimizer:
    return stepwell.Optimizer(model.named_parameters(), stepwell.rules.AdamW(lr=0.01))


def frozen_bias(model: nn.Module) -> stepwell.Optimizer:
    model[1].bias.requires_grad_(False)  # type: ignore[index]
    return adamw(model)


def replace(index: int, layer: Callable[[], nn.Module]) -> Callable[[nn.Sequential], None]:
    def change(model: nn.Sequential) -> None:
        model[index] = layer()

    return change


def moved(model: nn.Module) -> stepwell.Optimizer:
    optimizer = adamw(model)
    optimizer.param_groups[0]["eps"] = 1e-6
    return optimizer


def in_both(line: str, name: str = "adamw") -> list[str]:
    return [line.format(group) for group in (name, f"{name} undecayed")]


CHANGES: dict[str, Table] = {
    "another bias": Table(
        ["unexpected  weight '1.bias'", "unexpected  state of '1.bias'"],
        changed(replace(1, lambda: nn.Linear(8, 8, bias=False))),
    ),
    "one layer more": Table(
        [f"missing     weight '5.{name}'" for name in ("weight", "bias")]
        + [f"missing     state of '5.{name}'" for name in ("weight", "bias")],
        changed(lambda model: model.append(nn.LayerNorm(16)) and None),
    ),
    "another width": Table(
        [
            "reshaped    weight '4.weight': (32, 8) here, (16, 8) in the checkpoint",
            "reshaped    state of '4.weight': (32, 8) here, (16, 8) in the checkpoint",
        ],
        changed(replace(4, lambda: nn.Linear(8, 32, bias=False))),
    ),
    "another dtype": Table(
        ["retyped     weight '4.weight': bfloat16 here, float32 in the checkpoint"],
        changed(replace(4, lambda: nn.Linear(8, 16, bias=False, dtype=torch.bfloat16))),
    ),
    "tied weights": Table(
        ["unexpected  weight '4.weight', which is tied to '0.weight' here", "unexpected  state of '4.weight'"],
        changed(lambda model: setattr(model[4], "weight", model[0].weight)),
    ),
    "a frozen bias": Table(["unexpected  state of '1.bias'"], changed(optimizer=frozen_bias)),
    "another rule": Table(
        in_both("changed     the rule of group '{}': Lion here, AdamW in the checkpoint", "lion"),
        changed(optimizer=lambda model: stepwell.create_optimizer(model, "lion", lr=0.01)),
    ),
    "other groups": Table(
        ["changed     what was grouped with the parameters of group 0"],
        changed(optimizer=one_group),
    ),
    "another base rate": Table(
        in_both("changed     lr of group '{}': 0.02 here, 0.01 in the checkpoint"),
        changed(optimizer=lambda model: adamw(model, lr=0.02)),
    ),
    "a flag": Table(
        in_both("changed     amsgrad of group '{}': True here, False in the checkpoint"),
        changed(optimizer=lambda model: adamw(model, amsgrad=True)),
    ),
    "a number that a loop may move": Table(
        ["changed     eps of group 'adamw': 1e-06 here, 1e-08 in the checkpoint"],
        changed(optimizer=moved),
        refuse=False,
    ),
    "a scheduler of torch's": Table(
        [
            "changed     the scheduler: torch.optim.lr_scheduler.LambdaLR here, stepwell.scheduler.Scheduler in the "
            "checkpoint"
        ],
        changed(scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    ),
}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return changed()().go(2).save(tmp_path / "run", extra={"epoch": 2})


@pytest.mark.parametrize("what", CHANGES)
def test_differences_are_listed_and_refused(what: str, there: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = CHANGES[what]
    training = table.change()
    before = training.everything()
    if not table.refuse:
        assert [str(each) for each in training.load(there).differences] == table.lines
        assert caplog.messages[-1] == f"{there} was loaded with differences:\n" + "\n".join(
            f"  {x}" for x in table.lines
        )
        return
    with pytest.raises(MismatchError) as raised:
        training.load(there)
    assert [str(each) for each in raised.value.differences] == table.lines
    assert str(raised.value) == (
        f"{there} was not saved from what it is to be loaded into, and nothing has been loaded; strict=False loads "
        "what fits:\n" + "\n".join(f"  {line}" for line in table.lines)
    )
    assert training.everything() == before


@pytest.mark.parametrize("what", CHANGES)
def test_what_fits_is_loaded_on_demand_and_the_rest_told(
    what: str, there: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = CHANGES[what].change()
    fresh = {name: p.clone() for name, p in training.model.named_parameters()}
    source = changed()()
    source.load(there)
    saved = dict(source.model.named_parameters())
    extra = training.load(there, strict=False)
    assert extra == {"epoch": 2}
    assert [str(each) for each in extra.differences] == CHANGES[what].lines
    assert caplog.messages[-1].startswith(f"{there} was loaded with differences:\n")
    told = "\n".join(map(str, extra.differences))
    for name, p in training.model.named_parameters():
        if f"weight '{name}'" not in told:
            assert torch.equal(p, saved[name])
        elif "retyped" in told:
            assert torch.equal(p, saved[name].to(p.dtype))
        else:
            assert torch.equal(p, fresh[name] if "tied" not in told else saved["0.weight"])
        if f"state of '{name}'" in told or what == "another rule":
            assert not training.optimizer.state.get(p)
        elif p.requires_grad:
            assert training.optimizer.state[p]["step"] == 2
    if what != "another dtype":  # which no layer before it gives
        training.go(1)


def test_sections_that_the_checkpoint_lacks(tmp_path: Path, make: Make) -> None:
    training = make()
    where = checkpoint.save(tmp_path, model=training.model)
    with pytest.raises(MismatchError) as raised:
        training.load(where)
    assert [str(each) for each in raised.value.differences] == [
        "missing     the optimizer: the checkpoint holds none",
        "missing     the scheduler: the checkpoint holds none",
    ]
    training.load(where, strict=False)


def test_another_horizon_is_never_silent(there: Path) -> None:
    training = changed(scheduler=lambda optimizer: cosine(optimizer, 40))()
    before = training.everything()
    message = (
        f"{there} cannot be loaded: the saved schedule of lr is Cosine(horizon=20, warmup=2), this scheduler's is "
        "Cosine(horizon=40, warmup=4); load(…, schedule='this') goes on with this scheduler's, schedule='saved' with "
        "the saved"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        training.load(there)
    assert training.everything() == before
    training.load(there, schedule="this")
    assert training.scheduler.last_epoch == 2
    assert training.scheduler.schedules["lr"].horizon == 40
    training.load(there, schedule="saved")
    assert training.scheduler.schedules["lr"].horizon == 20
    with pytest.raises(ValueError, match=r"^schedule must be 'same', 'this' or 'saved', got 'old'$"):
        training.load(there, schedule="old")


def test_long_lists_are_cut(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, model=nn.Sequential(*(nn.Linear(1, 1) for _ in range(15))))
    with pytest.raises(MismatchError) as raised:
        checkpoint.load(tmp_path, model=nn.Linear(1, 1))
    lines = str(raised.value).splitlines()
    assert lines[1:3] == ["  missing     weight 'weight'", "  missing     weight 'bias'"]
    assert (len(lines), lines[-1]) == (24, "  unexpected  and 10 more")


def test_the_number_of_a_rate_is_compared_with_the_base_not_with_what_the_schedule_made_of_it(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = stepwell.SGD(model.named_parameters(), lr=0.5)
    scheduler = stepwell.create_scheduler(optimizer, "linear", horizon=10)
    for _ in range(4):
        scheduler.step()
    checkpoint.save(tmp_path, optimizer=optimizer)
    assert not checkpoint.load(tmp_path, optimizer=stepwell.SGD(model.named_parameters(), lr=0.5)).differences
    with pytest.raises(MismatchError, match=r"lr of group 0: 0.25 here, 0.5 in the checkpoint"):
        checkpoint.load(tmp_path, optimizer=stepwell.SGD(model.named_parameters(), lr=0.25))


def test_expanded_buffers_and_meta_models_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("ones", torch.ones(1, 3).expand(2, 3))
    checkpoint.save(tmp_path, model=model)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"'ones' has elements that share memory, as expand\(\) makes them"):
        checkpoint.load(tmp_path, model=model)
    with pytest.raises(CheckpointError, match="is on the meta device"):
        checkpoint.load(tmp_path, model=nn.Linear(2, 2, device="meta"), strict=False)
    assert torch.equal(model.weight, before)
