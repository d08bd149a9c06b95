"""What a checkpoint holds, which ones stay, and what a save that fails leaves."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError, Keep, manifest, saving

Make = Callable[..., Any]


def left(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_tensors_have_their_parameters_names(make: Make, tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.torch")
    training = make("muon").go(2)
    where = training.save(tmp_path, extra={"epoch": 3, "order": torch.arange(4)})
    assert where == tmp_path / "000001"
    assert left(where) == ["checkpoint.json", "model.safetensors", "optimizer.safetensors", "values.safetensors"]
    slots = package.load_file(where / "optimizer.safetensors")
    assert sorted(slots) == [
        *("0.weight/exp_avg", "0.weight/exp_avg_sq", "1.bias/exp_avg", "1.bias/exp_avg_sq", "1.weight/momentum_buffer"),
        *("3.bias/exp_avg", "3.bias/exp_avg_sq", "3.weight/exp_avg", "3.weight/exp_avg_sq"),
    ]
    state = training.optimizer.state[training.model[1].weight]
    assert torch.equal(slots["1.weight/momentum_buffer"], state["momentum_buffer"])
    weights = package.load_file(where / "model.safetensors")
    assert sorted(weights) == ["0.weight", "1.bias", "1.weight", "3.bias", "3.weight", "seen"]  # a tied one once
    assert {name: value.dtype for name, value in weights.items()}["seen"] == torch.int64
    plain = json.loads((where / "checkpoint.json").read_text(encoding="utf-8"))
    assert plain["step"] == 2
    assert plain["model"]["tied"] == {"4.weight": "0.weight"}
    assert plain["extra"] == {"epoch": 3, "order": {"$tensor": "extra/order"}}
    assert plain["optimizer"]["groups"][0]["params"] == ["1.weight"]
    assert [(group["name"], group["rule"]) for group in plain["optimizer"]["groups"]] == [
        ("hidden", "Muon"),
        ("adamw", "AdamW"),
        ("adamw undecayed", "AdamW"),
    ]
    assert plain["scheduler"]["state"] == training.scheduler.state_dict()


def test_flags_for_how_to_run_are_left_out(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    found = manifest.read(checkpoint.save(tmp_path, model=model, optimizer=optimizer))
    assert found.optimizer is not None
    assert not {"foreach", "fused", "capturable", "differentiable"} & found.optimizer["groups"][0].keys()
    assert found.optimizer["groups"][0]["weight_decay"] == 0.01


def test_no_file_is_a_pickle(make: Make, tmp_path: Path) -> None:
    where = make().go(1).save(tmp_path, extra={"a": (1, {2: "b"}), "b": b"\x80\x04"})
    for path in where.iterdir():
        start = path.read_bytes()[:64]
        assert start.startswith(b'{"sha256"') if path.suffix == ".json" else start[8:].startswith(b'{"__metadata__"')


def test_saving_changes_nothing(make: Make, tmp_path: Path) -> None:
    training = make().go(2)
    before = training.everything()
    training.save(tmp_path, extra={"a": 1}, keep=1)
    assert training.everything() == before


def test_names_of_files_that_are_no_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    checkpoint.save(tmp_path, extra={"file": name, name: torch.arange(2)})
    extra = checkpoint.load(tmp_path)
    assert extra["file"] == name
    assert extra[name].tolist() == [0, 1]


def test_a_part_may_be_saved(make: Make, tmp_path: Path) -> None:
    training = make().go(1)
    assert left(checkpoint.save(tmp_path, model=training.model)) == ["checkpoint.json", "model.safetensors"]
    assert left(checkpoint.save(tmp_path, extra={"a": 1})) == ["checkpoint.json"]
    where = checkpoint.save(tmp_path, optimizer=training.optimizer)  # its groups carry names
    assert left(where) == ["checkpoint.json", "optimizer.safetensors"]


# Which ones stay.


def saved(training: Any, path: Path, losses: list[Any], keep: Any) -> list[str]:
    for loss in losses:
        training.save(path, extra={"loss": loss}, keep=keep)
    return left(path)


def test_all_stay_by_default(make: Make, tmp_path: Path) -> None:
    assert saved(make(), tmp_path, [1, 2, 3], None) == ["000001", "000002", "000003"]


def test_the_last_ones_stay(make: Make, tmp_path: Path) -> None:
    training = make()
    assert saved(training, tmp_path, [1, 2, 3, 4], 2) == ["000003", "000004"]
    assert saved(training, tmp_path, [5], Keep(last=1)) == ["000005"]


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (Keep(last=2, best="loss"), ["000003", "000006", "000007"]),
        (Keep(last=2, best="loss", highest=True), ["000005", "000006", "000007"]),
        (Keep(last=5, best="loss"), ["000003", "000004", "000005", "000006", "000007"]),
    ],
)
def test_the_best_stays(make: Make, keep: Keep, stay: list[str], tmp_path: Path) -> None:
    # Of equal ones the newest; NaN and infinity are never the best.
    assert saved(make(), tmp_path, [3.0, 1, 1, math.nan, 9.5, 2.0, math.inf], keep) == stay


def test_the_best_stays_whatever_the_other_keys_are(make: Make, tmp_path: Path) -> None:
    training = make()
    for loss in [2.0, 1.0, math.nan, 3.0]:
        training.save(tmp_path, extra={"loss": loss, 7: "seed"}, keep=Keep(last=1, best="loss"))
    assert left(tmp_path) == ["000002", "000004"]


def test_what_is_best_is_known_after_a_resume(make: Make, tmp_path: Path) -> None:
    keep = Keep(last=1, best="loss")
    assert saved(make(), tmp_path, [3.0, 1.0, 2.0], keep) == ["000002", "000003"]
    resumed = make(seeded=5)
    resumed.load(tmp_path)
    assert saved(resumed, tmp_path, [4.0], keep) == ["000002", "000004"]


def test_checkpoints_of_another_training_are_left_alone(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(make(), tmp_path, [1, 2], 1)
    assert not caplog.messages
    assert saved(make(), tmp_path, [3, 4, 5], 1) == ["000002", "000005"]
    line = "also holds 1 checkpoint of another training, which keep= leaves alone: give each its own folder"
    assert caplog.messages == [f"{tmp_path} {line}"] * 3


def test_a_damaged_one_is_left_alone(make: Make, tmp_path: Path) -> None:
    training = make()
    saved(training, tmp_path, [1], 1)
    (tmp_path / "000001" / "checkpoint.json").write_bytes(b"{}")
    assert saved(training, tmp_path, [2, 3], 1) == ["000001", "000003"]


def test_one_that_cannot_be_deleted_is_told(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = make()
    saved(training, tmp_path, [1], 1)

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(saving.folder, "remove", refuse)
    with caplog.at_level(logging.WARNING, "stepwell"):
        assert saved(training, tmp_path, [2], 1) == ["000001", "000002"]
    assert caplog.messages == [f"{tmp_path / '000001'} cannot be deleted: Permission denied"]


# What cannot be saved.


class Opaque:
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to save: give model=, optimizer=, scheduler= or extra="),
        ({"extra": [1]}, "extra must be a dict of values by name, got a list"),
        (
            {"extra": {"loader": [Opaque()]}},
            "extra/loader/0 is a Opaque, which a checkpoint cannot hold: it takes numbers, strings, bytes, None, "
            "tensors, arrays, and lists, tuples and dicts of them",
        ),
        ({"model": Opaque()}, "model must be a torch Module, got Opaque"),
        ({"optimizer": nn.Linear(2, 2)}, "optimizer must be a torch Optimizer, got Linear"),
        ({"scheduler": Opaque()}, "scheduler must have a state_dict(), and a Opaque has none"),
        (
            {"model": nn.Linear(2, 2, device="meta")},
            "weight is on the meta device and has no numbers; materialise it with to_empty() first",
        ),
        (
            {"extra": {"pair": TwoTensor(torch.ones(2), torch.ones(2))}},
            "extra/pair is a TwoTensor, and a checkpoint holds whole, dense ones; torch.distributed.checkpoint takes "
            "shards",
        ),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())},
            "the optimizer does not know the names of its parameters (group 0): give model= too, or make the optimizer "
            "from model.named_parameters()",
        ),
        (
            {"model": nn.Linear(2, 2), "optimizer": torch.optim.SGD(nn.Linear(3, 2).parameters())},
            "parameter 0 of the optimizer's group 0, of shape (2, 3), is not in the model that was given",
        ),
        (
            {"extra": {"lss": 1.0}, "keep": Keep(best="loss")},
            "keep.best needs a number called 'loss' in extra, but it has lss (did you mean 'lss'?)",
        ),
        (
            {"extra": {1: 2.0}, "keep": Keep(best="loss")},
            "keep.best needs a number called 'loss' in extra, but it has 1",
        ),
        ({"extra": {"loss": "1"}, "keep": Keep(best="loss")}, "keep.best needs a number called 'loss' in extra, but it "
         "is '1'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        checkpoint.save(tmp_path / "run", **options)
    assert str(raised.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, "3"])
def test_keep_is_a_number_or_a_keep(keep: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^keep must be a whole number of at least 1"):
        checkpoint.save(tmp_path, extra={"a": 1}, keep=keep)
    assert left(tmp_path) == []


def test_two_parameters_of_one_name(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True) for _ in range(2)])
    optimizer.param_groups[0]["param_names"] = ["w", "w"]
    with pytest.raises(CheckpointError, match="two parameters of the optimizer are called 'w'"):
        checkpoint.save(tmp_path, optimizer=optimizer)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left on device"), (errno.EIO, "Input/output")])
def test_a_disk_that_fails(code: int, words: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make().go(1)
    training.save(tmp_path, keep=1)
    real, written = saving.tensorfile._stream, []

    def stream(*given: Any) -> int:
        written.append(given)
        if len(written) == 9:  # in the second file
            raise OSError(code, os.strerror(code))
        return real(*given)

    monkeypatch.setattr(saving.tensorfile, "_stream", stream)
    with pytest.raises(CheckpointError) as raised:
        training.go(1).save(tmp_path, keep=1)
    assert str(raised.value).startswith(f"cannot save to {tmp_path}: {words}")
    assert str(raised.value).endswith("; the checkpoints that are there have not changed")
    assert ("a checkpoint needs 1 MiB" in str(raised.value)) == (code == errno.ENOSPC)
    assert left(tmp_path) == ["000001"]
    monkeypatch.undo()
    assert training.save(tmp_path, keep=1).name == "000002"
    resumed = make(seeded=4)
    resumed.load(tmp_path)
    assert resumed.everything()[0] == training.everything()[0]


LIMITED = """
import resource, signal, sys, torch
from stepwell import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = torch.nn.Linear(100, 1000)
checkpoint.save(sys.argv[1], extra={"first": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    checkpoint.save(sys.argv[1], model=model, keep=1)
except checkpoint.CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"cannot save to {tmp_path}: File too large (a checkpoint needs 1 MiB, ")
    assert left(tmp_path) == ["000001"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("/proc/stepwell", "No such file or directory"), ("taken", "File exists"), ("taken/deeper", "Not a directory")],
)
def test_a_folder_that_cannot_be_made(path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    where = tmp_path / path
    with pytest.raises(CheckpointError) as raised:
        checkpoint.save(where, extra={"a": 1})
    assert str(raised.value) == f"cannot save to {where}: {words}; the checkpoints that are there have not changed"
    assert (tmp_path / "taken").read_text() == "mine"


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Within this context the process is no superuser, who may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)  # nobody
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has no such users")
def test_a_folder_that_is_read_only() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder may be entered by its user alone
        folder = Path(name)
        checkpoint.save(folder, extra={"a": 1})
        folder.chmod(0o555)
        try:
            with unprivileged(), pytest.raises(CheckpointError) as raised:
                checkpoint.save(folder, extra={"a": 2}, keep=1)
            with unprivileged():
                assert checkpoint.load(folder) == {"a": 1}
        finally:
            folder.chmod(0o700)
        assert left(folder) == ["000001"]
    assert str(raised.value) == (
        f"cannot save to {folder}: Permission denied; the checkpoints that are there have not changed"
    )
