"""A load that fails changes nothing, and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from checkpoint.small_training import Training, language_model, sealed, seed
from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError, DamagedError
from stepwell.checkpoint import loading as loading_module
from stepwell.checkpoint.matching import Fill

Make = Callable[..., Training]


def test_damage_offers_the_one_before(make: Make, tmp_path: Path) -> None:
    training = make().go(1)
    for _ in range(3):
        training.save(tmp_path)
    (tmp_path / "000002" / "model.safetensors").write_bytes(b"")
    path = tmp_path / "000003" / "optimizer.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    before = training.everything()
    with pytest.raises(DamagedError) as raised:
        training.load(tmp_path)
    assert str(raised.value).startswith(f"{path} is damaged: ")
    # The second is cut off, so that the first is the one.
    assert str(raised.value).endswith(f"; the checkpoint before it is {tmp_path / '000001'}")
    assert training.everything() == before
    training.load(tmp_path / "000001")
    with pytest.raises(DamagedError) as raised:
        training.load(tmp_path / "000002")
    assert str(raised.value).endswith(f"; the checkpoint before it is {tmp_path / '000001'}")


REGIONS = {"first": 0.0, "quarter": 0.25, "half": 0.5, "last": 1.0}
FILES = ("checkpoint.json", "model.safetensors", "optimizer.safetensors", "values.safetensors")


@pytest.mark.parametrize("how", ["turned", "zeroed", "cut off", "longer", "gone"])
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("file", FILES)
def test_damage_of_any_file_anywhere_offers_the_one_before(
    file: str, region: str, how: str, make: Make, tmp_path: Path
) -> None:
    """The bytes one by one, of each kind of file: `test_every_byte_counts`, twice."""
    training = make("adamw").go(1)
    first = training.save(tmp_path, extra={"order": torch.arange(5)})
    path = training.go(1).save(tmp_path, extra={"order": torch.arange(5)}) / file
    whole = path.read_bytes()
    place = int(REGIONS[region] * (len(whole) - 1))
    if how == "turned":
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
    elif how == "zeroed":  # what a disk gives for a page that was never written
        length = max(len(whole[place : place + 512].rstrip(b"\0")), 1)
        path.write_bytes(whole[:place] + bytes(length) + whole[place + length :])
    elif how == "cut off":
        path.write_bytes(whole[:place])
    elif how == "longer":
        path.write_bytes(whole[:place] + b"\1" + whole[place:])
    else:
        path.unlink()
    if path.exists() and path.read_bytes() == whole:
        pytest.skip("these bytes were zero")
    other = make("adamw", seeded=3).go(1)
    before = other.everything()
    with pytest.raises(DamagedError) as raised:
        other.load(tmp_path)
    told = str(raised.value)
    assert file in told
    assert "\n" not in told
    assert told.endswith(f"; the checkpoint before it is {first}")
    assert other.everything() == before
    other.load(first)


def test_a_file_that_is_missing(make: Make, tmp_path: Path) -> None:
    where = make().go(1).save(tmp_path)
    (where / "model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"model\.safetensors cannot be read: No such file or directory$"):
        make().load(tmp_path)


def test_one_that_is_deleted_at_this_moment_is_not_missed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make().go(1)
    training.save(tmp_path)
    real = loading_module.manifest.read

    def read(where: Path) -> Any:
        monkeypatch.undo()
        training.save(tmp_path, keep=1)  # another process
        return real(where)

    monkeypatch.setattr(loading_module.manifest, "read", read)
    assert make().load(tmp_path).checkpoint.name == "000002"


def test_a_model_and_an_optimizer_that_are_swapped(make: Make, tmp_path: Path) -> None:
    training = make().go(1)
    training.save(tmp_path)
    swapped: Any = {"model": training.optimizer, "optimizer": training.model}
    with pytest.raises(CheckpointError, match=r"^model must be a torch Module, got Optimizer$"):
        checkpoint.load(tmp_path, **swapped)


class Refusing(torch.optim.lr_scheduler.LambdaLR):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        raise RuntimeError("too late")


def test_a_scheduler_that_refuses_its_state_undoes_all(tmp_path: Path) -> None:
    def made(seeded: int) -> Training:
        seed(seeded)
        model = language_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return Training(model, optimizer, Refusing(optimizer, lambda step: 0.5**step))

    made(0).go(2).save(tmp_path)
    training = made(3).go(1)
    before = training.everything()
    with pytest.raises(CheckpointError, match="cannot be loaded: too late"):
        training.load(tmp_path)
    assert training.everything() == before
    assert training.scheduler.optimizer is training.optimizer


class Around(torch.optim.Optimizer):
    """As a Lookahead: an optimizer inside, and something of its own beside it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self.state = optimizer.state
        self.turns = 0

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def state_dict(self) -> Any:
        return {**self.optimizer.state_dict(), "turns": self.turns}

    def load_state_dict(self, state_dict: Any) -> None:
        self.turns = 5
        self.optimizer.state.clear()
        self.optimizer.load_state_dict(state_dict)
        self.state = self.optimizer.state


@pytest.mark.parametrize("around", [stepwell.offload, Around], ids=["offloaded", "wrapped"])
def test_a_refused_load_is_undone_in_the_optimizer_inside_too(
    around: Callable[[Any], torch.optim.Optimizer], tmp_path: Path
) -> None:
    def made(horizon: int) -> Training:
        model = torch.nn.Linear(200, 100)  # a big slot and a small one
        optimizer = around(stepwell.AdamW(model.named_parameters(), lr=0.01))
        return Training(model, optimizer, stepwell.create_scheduler(optimizer, "cosine", horizon=horizon))

    def go(training: Training, steps: int) -> None:
        for _ in range(steps):
            training.model(torch.ones(2, 200)).square().mean().backward()
            training.optimizer.step()
            training.scheduler.step()

    saved = made(20)
    go(saved, 7)
    saved.save(tmp_path)
    training = made(30)
    go(training, 2)
    before = training.everything()
    slots = {p: dict(state) for p, state in training.optimizer.state.items()}
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        training.load(tmp_path)
    assert training.everything() == before
    for p, state in slots.items():
        assert all(training.optimizer.state[p][name] is value for name, value in state.items())
    assert getattr(training.optimizer, "turns", 0) == 0
    go(training, 1)  # with the state that was put back
    assert {state["step"] for state in training.optimizer.state.values()} == {3}


@pytest.mark.parametrize("number", [0, 3])
def test_a_disk_that_fails_after_all_was_found_whole(
    number: int, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().go(2).save(tmp_path)
    training = make(seeded=4).go(1)
    before = training.everything()
    weights = {name: p.clone() for name, p in training.model.named_parameters()}
    real, count = Fill.last, []

    def last(self: Fill) -> None:
        count.append(self)
        if len(count) > number:
            raise DamagedError("the disk is gone")
        real(self)

    monkeypatch.setattr(Fill, "last", last)
    monkeypatch.setattr(loading_module, "in_parallel", lambda jobs: [job() for job in jobs])
    with pytest.raises(CheckpointError, match=r"^the disk is gone, after it had been found whole: .* load them again"):
        training.load(tmp_path)
    after = training.everything()
    assert after[0][1:] == before[0][1:]
    assert after[1] == before[1]
    if not number:
        assert all(torch.equal(p, weights[name]) for name, p in training.model.named_parameters())


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Training:
        model = torch.nn.Linear(200, 100)
        return Training(model, stepwell.AdamW(model.named_parameters(), lr=0.01))

    saved = made()
    saved.model(torch.ones(2, 200)).square().mean().backward()
    saved.optimizer.step()
    saved.save(tmp_path)
    training = made()
    before = training.everything()

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory$"):
        training.load(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory$"):
        training.load(tmp_path)
    monkeypatch.undo()
    assert training.everything() == before


class Broken(torch.nn.Linear):
    def get_extra_state(self) -> Any:
        raise TypeError("not to be had")

    def set_extra_state(self, state: Any) -> None:
        raise NotImplementedError


def test_what_the_users_own_code_raises_is_no_damage(make: Make, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not now")

    make("adamw").go(1).save(tmp_path)
    with pytest.raises(TypeError, match=r"^not to be had$"):
        checkpoint.load(tmp_path, model=Broken(2, 2), strict=False)
    training = make("adamw")
    training.optimizer.register_state_dict_pre_hook(refuse)
    with pytest.raises(ValueError, match=r"^not now$") as raised:
        training.load(tmp_path)
    assert not isinstance(raised.value, CheckpointError)


def section(name: str, **change: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[name].update(change)


NONSENSE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no tied": lambda data: data["model"].pop("tied"),
    "tied to nothing": section("model", tied={"4.weight": "nowhere"}),
    "tied is a list": section("model", tied=["4.weight"]),
    "no class": lambda data: data["optimizer"].pop("class"),
    "no groups": section("optimizer", groups=None),
    "a group without parameters": lambda data: data["optimizer"]["groups"][0].pop("params"),
    "parameters that are none": section("optimizer", parameters={"0.weight": 3}),
    "state that is none": section("optimizer", state={"0.weight": 3}),
    "a slot in no file": section("optimizer", state={"0.weight": {"exp_avg": {"$tensor": "nowhere"}}}),
    "a slot that no rule has": section("optimizer", state={"0.weight": {"ghost": 3}}),
    "a slot that is text": section("optimizer", state={"0.weight": {"exp_avg": "text"}}),
    "a rate below zero": lambda data: data["optimizer"]["groups"][0].update(lr=-1.0),
    "an unknown mark": section("scheduler", state={"$set": [1]}),
    "a scheduler without state": lambda data: data["scheduler"].pop("state"),
    "a step that is text": section("scheduler", state={"step": "3", "schedules": {}}),
    "random that is none": section("random", torch={"$bytes": "AAAA"}),
    "random without torch": lambda data: data["random"].pop("torch"),
    "extra that is a list": lambda data: data.update(extra=[1]),
    "a fingerprint that is short": lambda data: data["optimizer"]["groups"][0].update(holds="training", fingerprint=3),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_manifest_that_is_nonsense_is_refused_and_nothing_changes(what: str, make: Make, tmp_path: Path) -> None:
    where = make("adamw").go(2).save(tmp_path, extra={"epoch": 2})
    data = json.loads((where / "checkpoint.json").read_text(encoding="utf-8"))
    del data["sha256"]
    NONSENSE[what](data)
    (where / "checkpoint.json").write_bytes(sealed(data))
    training = make("adamw", seeded=5).go(1)
    before = training.everything()
    with pytest.raises(CheckpointError):
        training.load(tmp_path, strict=False)
    assert training.everything() == before
    training.go(1)
