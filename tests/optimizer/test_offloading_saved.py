"""State on the host, saved, loaded and copied: the same state dicts as without."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from offloaded_training import CHOSEN, assert_same, of, pair, train_both
from torch import Tensor, nn

import stepwell
from conformance.cases import Case, assert_near, rows
from conformance.training import parameters_of, train, weights
from stepwell import Optimizer, checkpoint
from stepwell.checkpoint import manifest
from stepwell.checkpoint.matching import Library, match_optimizer
from stepwell.checkpoint.tensorfile import TensorFile
from stepwell.optimizer import offloading


@rows(CHOSEN)
def test_state_dicts_go_both_ways(case: Case) -> None:
    ours, plain = pair(case)
    train_both(ours, plain, last=2)
    saved = ours.state_dict()
    for key, state in plain.state_dict()["state"].items():
        assert saved["state"][key].keys() == state.keys()
    copies = [[p.detach().clone().requires_grad_() for p in of(ours)] for _ in range(2)]
    here = Optimizer(copies[0], case.rule)
    here.load_state_dict(saved)
    there = stepwell.offload(Optimizer(copies[1], case.rule))
    there.load_state_dict(plain.state_dict())
    for optimizer in (ours, plain, here, there):
        train(optimizer, of(optimizer), first=3)
    for optimizer in (ours, here, there):
        assert_same(optimizer, plain)


def test_state_that_is_there_already_goes_along() -> None:
    ours, plain = (Optimizer(weights(CHOSEN[1]), CHOSEN[1].rule) for _ in range(2))
    train_both(ours, plain, last=2)
    ours = stepwell.offload(ours)
    assert_same(ours, plain)
    train_both(ours, plain, first=3)
    assert_same(ours, plain)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_it_can_be_copied(way: str) -> None:
    ours, plain = pair(CHOSEN[1])
    train_both(ours, plain, last=2)
    twin = copy.deepcopy(ours) if way == "deepcopy" else pickle.loads(pickle.dumps(ours))
    for optimizer in (twin, plain):
        train(optimizer, of(optimizer), first=3)
    assert_same(twin, plain)


def test_checkpoints(tmp_path: Path) -> None:
    def made() -> tuple[nn.Module, Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        return model, stepwell.offload(stepwell.AdamW(model.named_parameters(), lr=0.1))

    model, optimizer = made()
    train(optimizer, of(optimizer), last=2)
    stepwell.checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    other, resumed = made()
    stepwell.checkpoint.load(tmp_path, model=other, optimizer=resumed)
    train_both(optimizer, resumed, first=3)
    assert_same(resumed, optimizer)


def test_the_recipe_goes_along() -> None:
    optimizer = stepwell.create_optimizer(nn.Linear(4, 3), "adamw")
    assert optimizer.recipe is not None
    offloaded = stepwell.offload(optimizer)
    assert offloaded.recipe == optimizer.recipe
    assert pickle.loads(pickle.dumps(offloaded)).recipe == optimizer.recipe


def test_weights_saved_in_another_mode_than_state_are_recognised() -> None:
    case = next(case for case in CHOSEN if case.name == "ScheduleFreeAdamW")
    ours, plain = pair(case)
    train_both(ours, plain, last=3)
    state = copy.deepcopy(plain.state_dict())
    plain.eval()
    loaded = [p.detach().clone().requires_grad_() for p in of(plain)]
    resumed = stepwell.offload(Optimizer(loaded, case.rule))
    resumed.load_state_dict(state)
    train(resumed, loaded, first=4)
    train(ours, of(ours), first=4)
    assert_near(parameters_of(resumed), parameters_of(ours), 1e-5)


def test_what_a_checkpoint_loads_goes_to_the_host_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The device may have no room for it; here it is one that holds no numbers.
    model = nn.Linear(200, 100)  # a big slot and a small one
    saving = stepwell.AdamW(model.named_parameters())
    model(torch.ones(2, 200)).square().mean().backward()
    saving.step()
    where = checkpoint.save(tmp_path, optimizer=saving)
    loading = stepwell.offload(stepwell.AdamW(nn.Linear(200, 100, device="meta").named_parameters()))
    found, file = manifest.read(where), "optimizer.safetensors"
    went: set[Any] = set()
    to = Tensor.to

    def moved(self: Tensor, device: Any, **options: Any) -> Tensor:
        went.add(device)
        return to(self, device, **options)

    monkeypatch.setattr(Tensor, "to", moved)
    with TensorFile(where / file, found.files[file]) as opened:
        groups = loading.state_dict()["param_groups"]
        match = match_optimizer(found.optimizer or {}, loading, groups, None, Library([opened]))
    monkeypatch.undo()
    slots = [slot for state in match.state["state"].values() for slot in state.values() if isinstance(slot, Tensor)]
    assert len(slots) == 4
    assert len(match.fills) == 2
    assert {slot.device for slot in slots} | went == {offloading.HOST}
