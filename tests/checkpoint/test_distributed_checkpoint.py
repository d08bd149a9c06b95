"""torch's own ways to save a training work too: `torch.distributed.checkpoint`, here in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from checkpoint.small_training import Training, seed


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
