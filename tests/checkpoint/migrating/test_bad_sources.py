"""What a migration needs to know, and what it refuses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from checkpoint.migrations import go, made
from checkpoint.small_training import Training, language_model, seed, training
from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError

# Names.


def test_names_may_be_given(tmp_path: Path) -> None:
    whole = made()
    names = [name for name, _ in whole.named_parameters()][::-1]
    first = torch.optim.AdamW([whole.get_parameter(name) for name in names], lr=0.1)
    go(whole, first, 2)
    model = made()
    second = stepwell.AdamW(model.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match=r"^the state dict has its optimizer's state by number, and the model's"):
        checkpoint.migrate(first.state_dict(), model=model, optimizer=second)
    with pytest.raises(CheckpointError, match=r"^names must be a list for each of the groups .*, of 5 names$"):
        checkpoint.migrate(first.state_dict(), model=model, optimizer=second, names=[names[:2]])
    checkpoint.migrate(first.state_dict(), model=model, optimizer=second, names=[names])
    for name, p in model.named_parameters():
        assert torch.equal(second.state[p]["exp_avg"], first.state[whole.get_parameter(name)]["exp_avg"])


def test_without_a_model_numbers_cannot_be_named() -> None:
    whole = made()
    first = torch.optim.AdamW(whole.parameters(), lr=0.1)
    go(whole, first, 1)
    with pytest.raises(CheckpointError, match=r"by number, not by name: give the model that it was saved from$"):
        checkpoint.migrate(first.state_dict(), optimizer=stepwell.AdamW(whole.named_parameters()))


def test_what_fits_in_two_ways_is_not_guessed() -> None:
    # The same shapes in both groups: transformers would spare the one called norm, timm neither.
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Parameter(torch.ones(2, 2))
            self.other = nn.Parameter(torch.ones(2, 2))
            self.bias = nn.Parameter(torch.ones(2, 2))

    model = Two()
    first = torch.optim.AdamW([{"params": [model.other]}, {"params": [model.norm, model.bias]}])
    go(model, first, 1)
    second = stepwell.AdamW(model.parameters())
    assert checkpoint.migrate(first.state_dict(), model=model, optimizer=second).moved[0].how == "kept"
    swapped = torch.optim.AdamW([{"params": [model.norm]}, {"params": [model.other, model.bias]}])
    go(model, swapped, 1)
    model.no_weight_decay = lambda: {"norm"}  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"in 2 ways; give names="):
        checkpoint.migrate(swapped.state_dict(), model=model, optimizer=second)


# Bad input.


class Evil:
    def __reduce__(self) -> Any:
        return Path("evil").write_text, ("gone",)


def test_files_that_are_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = made()
    optimizer = stepwell.AdamW(model.named_parameters())
    (tmp_path / "text.pt").write_text("no file of torch's")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"optimizer": Evil()}, tmp_path / "evil.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps({"optimizer": Evil()}))
    torch.save({"w": torch.ones(100)}, tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:-300])
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "other.pt")
    torch.save({"state": {}, "param_groups": 3}, tmp_path / "broken.pt")
    (tmp_path / "folder").mkdir()
    before = [p.clone() for p in model.parameters()]
    for name, message in {
        "text.pt": r"text\.pt is no file of torch\.save: it is not written as one$",
        "empty.pt": r"empty\.pt is no file of torch\.save: it is empty$",
        "pickled.pt": r"pickled\.pt is no file of torch\.save: it is not written as one$",
        "half.pt": r"half\.pt is cut off$",
        "module.pt": r"module\.pt holds more than tensors and plain values \(torch\.nn\.modules\.linear\.Linear\), and "
        r"is not opened: save a state_dict\(\) instead$",
        "evil.pt": r"evil\.pt holds more than tensors and plain values \(\S+\), and is not opened: save a state_dict",
        "list.pt": r"list\.pt is no state dict, but a list$",
        "other.pt": r"other\.pt holds no optimizer's state and no weights, but a$",
        "broken.pt": r"broken\.pt is no optimizer's state dict: TypeError",
        "folder": r"folder holds neither a checkpoint of stepwell's nor an optimizer\.pt of transformers'$",
        "nowhere": r"there is no folder nowhere$",
    }.items():
        with pytest.raises(CheckpointError, match=message) as raised:
            checkpoint.migrate(name, model=model, optimizer=optimizer)
        assert "\n" not in str(raised.value)
    assert not Path("evil").exists()
    assert all(map(torch.equal, before, model.parameters()))


def test_weights_of_another_shape_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    training("adamw").go(1).save(tmp_path)
    seed(3)
    model = language_model()
    assert isinstance(model, nn.Sequential)
    model[4] = nn.Linear(8, 20, bias=False)
    other = Training(model, stepwell.create_optimizer(model, "adamw")).go(1)
    before = other.everything()
    with pytest.raises(CheckpointError, match=r"has '4\.weight' in shape \(16, 8\), the model has it in \(20, 8\)$"):
        checkpoint.migrate(tmp_path, model=model, optimizer=other.optimizer)
    assert other.everything() == before
