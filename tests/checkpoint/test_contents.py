"""What a checkpoint holds, and how two of them differ, without reading their tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from checkpoint.small_training import sealed
from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError, DamagedError

Make = Callable[..., Any]


def test_the_contents_of_a_checkpoint(make: Make, tmp_path: Path) -> None:
    training = make("muon").go(3)
    training.save(tmp_path, extra={"epoch": 1})
    where = training.save(tmp_path, extra={"epoch": 2, "order": torch.arange(3)})
    found = checkpoint.inspect(tmp_path)
    assert (found.path, found.format, found.step, found.beside) == (str(where), 1, 3, ("000001",))
    assert found.bytes == sum(file.stat().st_size for file in where.iterdir())
    # Tied weights once: 16·8 + 8·8 + 8 + 2·8 numbers in float32, and a buffer of 3.
    assert found.model is not None
    assert found.model.dtypes == {"int64": 3, "float32": 216}
    assert (found.model.tensors, found.model.numbers, found.model.bytes) == (6, 219, 4 * 216 + 8 * 3)
    assert [(group.name, group.rule, group.parameters, group.numbers, group.slots) for group in found.groups] == [
        ("hidden", "Muon", 1, 64, ("momentum_buffer",)),
        ("adamw", "AdamW", 1, 128, ("exp_avg", "exp_avg_sq")),
        ("adamw undecayed", "AdamW", 3, 24, ("exp_avg", "exp_avg_sq")),
    ]
    assert [group.state.bytes for group in found.groups] == [4 * 64, 8 * 128, 8 * 24]
    assert found.recipe is not None
    assert stepwell.Recipe.from_dict(found.recipe) == stepwell.Recipe.preset("muon").set(lr=0.01)
    assert [group.lr for group in found.groups] == [0.01] * 3  # the base, not what the schedule has made of it
    assert found.scheduler is not None
    assert found.scheduler["state"]["step"] == 3
    assert found.random[:3] == ("python", "numpy", "torch")
    assert found.extra == {"epoch": 2, "order": {"$tensor": "extra/order"}}
    assert json.loads(json.dumps(found.to_data()))["groups"][0]["state"]["tensors"] == 1


def test_of_a_part_and_of_torchs(tmp_path: Path) -> None:
    without = checkpoint.inspect(checkpoint.save(tmp_path, extra={"a": 1}))
    assert (without.groups, without.recipe) == ((), None)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5))
    found = checkpoint.inspect(checkpoint.save(tmp_path, model=model, optimizer=optimizer))
    assert found.recipe is None
    (group,) = found.groups
    assert (group.name, group.rule, group.lr, group.slots, group.state.tensors) == ("group 0", "SGD", None, (), 0)


def test_a_recipe_of_ones_own_is_inside(tmp_path: Path) -> None:
    recipe = stepwell.Recipe(
        name="mine",
        routes=(
            stepwell.Route(rule="Lion", select="ndim(at_least=2)", hyper_parameters={"betas": (0.9, 0.95)}),
            stepwell.Route(rule="AdamW"),
        ),
        schedules={"lr": stepwell.schedules.Cosine(warmup=0.1)},
        clip_norm=1.0,
    )
    model = nn.Linear(3, 2)
    optimizer, scheduler = stepwell.plan(model, recipe, horizon=10).build()
    checkpoint.save(tmp_path, model=model, optimizer=copy.deepcopy(optimizer), scheduler=scheduler)
    found = checkpoint.inspect(tmp_path).recipe
    assert found is not None
    assert stepwell.Recipe.from_dict(found) == recipe


def test_a_checkpoint_from_before_recipes_were_inside(make: Make, tmp_path: Path) -> None:
    where = make("muon").go(1).save(tmp_path)
    data = json.loads((where / "checkpoint.json").read_text(encoding="utf-8"))
    del data["sha256"], data["optimizer"]["recipe"]
    (where / "checkpoint.json").write_bytes(sealed(data))
    assert checkpoint.inspect(tmp_path).recipe is None
    assert not make("muon", seeded=3).load(tmp_path).differences


def test_damage_is_seen_where_one_looks(make: Make, tmp_path: Path) -> None:
    where = make().go(1).save(tmp_path)
    path = where / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    checkpoint.inspect(tmp_path)
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
        checkpoint.inspect(tmp_path, verify=True)
    path.write_bytes(whole)
    data = json.loads((where / "checkpoint.json").read_text())
    del data["sha256"], data["optimizer"]["groups"]
    (where / "checkpoint.json").write_bytes(sealed(data))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged: KeyError: 'groups'"):
        checkpoint.inspect(tmp_path)
    with pytest.raises(CheckpointError, match=r"is damaged: KeyError: 'groups'"):
        checkpoint.diff(tmp_path, tmp_path)


def lines(a: Path, b: Path) -> list[str]:
    return [each.line("in A", "in B") for each in checkpoint.diff(a, b)]


def test_the_same_training_later_differs_in_numbers_alone(make: Make, tmp_path: Path) -> None:
    training = make("muon").go(2)
    first = training.save(tmp_path, extra={"epoch": 1, "loss": float("inf")})
    again = training.save(tmp_path, extra={"epoch": 1, "loss": float("inf")})
    assert lines(first, again) == []
    later = training.go(1).save(tmp_path, extra={"epoch": 2, "best": (1, 2)})
    assert lines(first, later) == [
        "changed     the numbers of 5 of 6 weights: '0.weight', '1.weight', '1.bias' and 2 more",
        "changed     the numbers of 9 of 9 states: '1.weight/momentum_buffer', '0.weight/exp_avg', "
        "'0.weight/exp_avg_sq' and 6 more",
        "changed     scheduler 'step': 2 in A, 3 in B",
        "changed     extra 'epoch': 1 in A, 2 in B",
        "missing     extra 'loss'",
        "unexpected  extra 'best'",
    ]
    assert not checkpoint.diff(first, later).refuse


def test_other_trainings_differ_in_kind(make: Make, tmp_path: Path) -> None:
    make("adamw", betas=(0.8, 0.9)).go(1).save(tmp_path / "a")
    other = make("adamw", schedule="linear", lr=0.02)
    other.model.append(nn.Linear(16, 3, bias=False))
    other.optimizer = stepwell.create_optimizer(other.model.bfloat16(), "adamw", lr=0.02)
    checkpoint.save(tmp_path / "b", model=other.model, optimizer=other.optimizer, scheduler=other.scheduler)
    found = lines(tmp_path / "a", tmp_path / "b")
    for line in (
        "unexpected  weight '5.weight'",
        "retyped     weight '0.weight': torch.float32 in A, torch.bfloat16 in B",
        "missing     state '0.weight/exp_avg'",
        "changed     the parameters of group 'adamw': 2 in A, 3 in B",
        "changed     betas of group 'adamw': [0.8, 0.9] in A, [0.9, 0.999] in B",
        "changed     lr of group 'adamw': 0.01 in A, 0.02 in B",
        "changed     scheduler 'schedules': {'lr': 'Cosine(horizon=20, warmup=2)'} in A, "
        "{'lr': 'Linear(horizon=20, warmup=2)'} in B",
    ):
        assert line in found
    assert checkpoint.diff(tmp_path / "a", tmp_path / "b").refuse


def test_sections_on_one_side(make: Make, tmp_path: Path) -> None:
    training = make()
    training.save(tmp_path / "a")
    checkpoint.save(tmp_path / "b", model=training.model)
    assert lines(tmp_path / "a", tmp_path / "b") == ["missing     the optimizer", "missing     the scheduler"]
    assert lines(tmp_path / "b", tmp_path / "a") == ["unexpected  the optimizer", "unexpected  the scheduler"]
