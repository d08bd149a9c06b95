"""torch's own ways to save a training work too: `torch.distributed.checkpoint`, here in one process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from checkpoint.small_training import Training, seed
from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError, DamagedError


@pytest.mark.filterwarnings("ignore:.*assuming the intent is to (save|load) in a single process:UserWarning")
@pytest.mark.parametrize("recipe", ["adamw", "muon", "lion", "schedule-free"])
def test_a_training_goes_on_with_the_same_bits(recipe: str, make: Callable[..., Training], tmp_path: Path) -> None:
    def state_of(training: Training) -> dict[str, Any]:
        model, optimizer = get_state_dict(training.model, training.optimizer)
        return {"model": model, "optimizer": optimizer}

    whole = make(recipe, schedule=None).go(2)
    dcp.save(state_of(whole), checkpoint_id=tmp_path, no_dist=True)
    resumed = make(recipe, schedule=None, seeded=4)
    state = state_of(resumed)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(
        resumed.model,
        resumed.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    for each in (whole, resumed):
        seed(1)
        each.go(2)
    assert resumed.everything() == whole.everything()


@pytest.fixture
def parts(make: Callable[..., Training], tmp_path: Path) -> Path:
    training = make("adamw").go(1)
    model, optimizer = get_state_dict(training.model, training.optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is one process
        dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=tmp_path / "parts", no_dist=True)
    return tmp_path / "parts"


def test_all_parts_are_there(parts: Path) -> None:
    checkpoint.check_parts(parts)


def test_a_rank_whose_file_is_missing(parts: Path) -> None:
    (parts / "__0_0.distcp").unlink()
    with pytest.raises(DamagedError) as raised:
        checkpoint.check_parts(parts)
    assert str(raised.value) == f"{parts} lacks '__0_0.distcp', which rank 0 saved: 0 of 1 files are there"


def test_a_file_of_a_rank_that_is_cut_off(parts: Path) -> None:
    file = parts / "__0_0.distcp"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError) as raised:
        checkpoint.check_parts(parts)
    told = f"{parts} is cut off in '__0_0.distcp', which rank 0 saved: {size - 1:,} bytes of {size:,} in the first"
    assert str(raised.value) == told


def test_parts_of_which_nobody_has_the_list(parts: Path) -> None:
    (parts / ".metadata").write_bytes(b"no pickle")
    with pytest.raises(DamagedError, match=r"\.metadata cannot be read: "):
        checkpoint.check_parts(parts)
    (parts / ".metadata").unlink()
    with pytest.raises(
        CheckpointError, match=r"it has no \.metadata, which is written last, when all ranks have saved$"
    ):
        checkpoint.check_parts(parts)
    with pytest.raises(CheckpointError, match=r"^there is no folder .*nowhere$"):
        checkpoint.check_parts(parts / "nowhere")
