"""Trainings go on from what other packages have left."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from checkpoint.migrations import assert_near, go, in_two, made
from stepwell import checkpoint
from stepwell.checkpoint import CheckpointError


def test_transformers_folders(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.torch")
    whole = made()
    first = torch.optim.AdamW(in_two(whole), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(first, lambda _: 1.0)
    for _ in range(3):
        go(whole, first, 1)
        scheduler.step()
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    torch.save(first.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3, "epoch": 0.5, "log_history": []}))
    package.save_file({k: v for k, v in whole.state_dict().items() if k != "4.weight"}, folder / "model.safetensors")
    model = made(seeded=5)
    second = stepwell.AdamW(in_two(model), lr=0.1)
    schedule = stepwell.create_scheduler(second, "constant", horizon=10)
    report = checkpoint.migrate(folder, model=model, optimizer=second, scheduler=schedule)
    assert report.extra == {"global_step": 3, "epoch": 0.5}
    assert report.notes == (
        "its random generators' states are left out: they were pickled",
        "the scheduler goes on at step 3",
    )
    assert {one.how for one in report.moved} == {"kept"}
    assert schedule.last_epoch == 3
    go(whole, first, 3)
    go(model, second, 3)
    assert_near(model, whole)


def test_a_scheduler_of_ours_in_a_folder_of_transformers(tmp_path: Path) -> None:
    model = made()
    optimizer = stepwell.AdamW(model.named_parameters(), lr=0.1)
    scheduler = stepwell.create_scheduler(optimizer, "linear", horizon=10)
    go(model, optimizer, 2)
    for _ in range(2):
        scheduler.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    second = stepwell.AdamW(made(seeded=5).named_parameters(), lr=0.1)
    schedule = stepwell.create_scheduler(second, "linear", horizon=10)
    report = checkpoint.migrate(tmp_path, optimizer=second, scheduler=schedule)
    assert report.notes == ("the scheduler goes on at step 2",)
    assert second.param_groups[0]["lr"] == pytest.approx(0.08)


def test_timm_checkpoints(tmp_path: Path) -> None:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        return in_two(model)[::-1]

    whole = made()
    first = torch.optim.AdamW(groups(whole), lr=0.1)
    go(whole, first, 3)
    content = {
        "epoch": 7,
        "arch": "vit",
        "state_dict": whole.state_dict(),
        "optimizer": first.state_dict(),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, model="vit"),
        "amp_scaler": {"scale": 65536.0},
    }
    torch.save(content, tmp_path / "last.pth.tar")
    model = made(seeded=5)
    second = stepwell.AdamW(groups(model), lr=0.1)
    report = checkpoint.migrate(tmp_path / "last.pth.tar", model=model, optimizer=second)
    assert report.extra == {"epoch": 7, "arch": "vit", "version": 2}
    go(whole, first, 3)
    go(model, second, 3)
    assert_near(model, whole)


def test_a_folder_of_accelerates(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    first = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(first, lambda _: 1.0)
    for _ in range(3):
        go(model, first, 1)
        scheduler.step()
    torch.save(first.state_dict(), tmp_path / "optimizer.bin")
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.bin")
    second = stepwell.AdamW(model.parameters(), lr=0.1)
    schedule = stepwell.create_scheduler(second, "constant", horizon=10)
    report = checkpoint.migrate(tmp_path, model=model, optimizer=second, scheduler=schedule)
    assert report.notes == ("the scheduler goes on at step 3",)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "strange."])
def test_weights_of_a_model_that_was_wrapped(prefix: str, tmp_path: Path) -> None:
    whole, model = nn.Linear(3, 2), nn.Linear(3, 2)
    first, second = torch.optim.AdamW(whole.parameters()), stepwell.AdamW(model.parameters())
    go(whole, first, 1)
    weights = {prefix + name: value for name, value in whole.state_dict().items()}
    torch.save({"model": weights, "optimizer": first.state_dict()}, tmp_path / "a.pt")
    report = checkpoint.migrate(tmp_path / "a.pt", model=model, optimizer=second)
    if prefix == "strange.":
        (note,) = report.notes
        assert note.startswith("'weight' and 1 more of the model stay as they are: ")
    else:
        assert_near(model, whole)
        assert report.notes == ()


@pytest.mark.parametrize("counter", ["step", "k"])
def test_steps_that_are_counted_in_the_group(counter: str) -> None:
    model = nn.Linear(3, 2, bias=False)
    state = {"exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    group = {"lr": 0.1, "betas": (0.9, 0.999), counter: 7, "params": [0]}
    optimizer = stepwell.AdamW(model.parameters())
    checkpoint.migrate({"state": {0: state}, "param_groups": [group]}, model=model, optimizer=optimizer)
    assert optimizer.state[model.weight]["step"] == 7


def test_adafactor_of_torchs_by_number_and_of_transformers() -> None:
    whole, model = (nn.Linear(4, 3, dtype=torch.float64) for _ in range(2))
    first = torch.optim.Adafactor(whole.parameters(), lr=0.1)
    values = {"lr": 0.1, "eps": (2.0**-23, 1e-3), "eps_as_floor": True, "relative_step": False, "decay": "decoupled"}
    second = stepwell.Adafactor(model.parameters(), **values)
    go(whole, first, 3)
    model.load_state_dict(whole.state_dict())
    report = checkpoint.migrate(first.state_dict(), model=model, optimizer=second)
    assert {one.how for one in report.moved} == {"kept"}
    go(whole, first, 3)
    go(model, second, 3)
    assert_near(model, whole)
    rows, columns, bias = torch.rand(3), torch.rand(4), torch.rand(3)
    weight = {"step": 3, "exp_avg_sq_row": rows, "exp_avg_sq_col": columns, "RMS": 0.5}
    theirs = {0: weight, 1: {"step": 3, "exp_avg_sq": bias, "RMS": 0.5}}
    group = {"lr": None, "clip_threshold": 1.0, "decay_rate": -0.8, "beta1": None, "params": [0, 1]}
    third = stepwell.Adafactor(model.parameters())
    checkpoint.migrate({"state": theirs, "param_groups": [group]}, model=model, optimizer=third)
    found = third.state[model.weight]
    assert torch.equal(found["row_var"], rows[:, None])
    assert torch.equal(found["col_var"], columns[None])
    assert torch.equal(third.state[model.bias]["variance"], bias)


def test_a_class_that_is_derived_from_one_of_torchs() -> None:
    class AdamW8bit(torch.optim.AdamW):
        pass

    class Mine(torch.optim.RAdam):
        pass

    for kind, ours in ((AdamW8bit, stepwell.AdamW), (Mine, stepwell.RAdam)):
        model = nn.Linear(3, 2)
        first: Any = kind(model.parameters())
        go(model, first, 2)
        report = checkpoint.migrate(first, model=model, optimizer=ours(model.parameters()))
        assert {one.how for one in report.moved} == {"kept"}


def quantised(values: Tensor, table: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes and largest magnitudes of blocks, as bitsandbytes has them."""
    flat = values.flatten()
    largest = torch.stack([part.abs().max() for part in flat.split(block)])
    scaled = flat / largest.repeat_interleave(block)[: len(flat)].clamp_min(1e-30)
    codes = (scaled.unsqueeze(1) - table).abs().argmin(1)
    return codes.to(torch.uint8).view(values.shape), largest


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [256, 2048])
def test_bitsandbytes(block: int, nested: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.linspace(-1, 1, 256)
    big, small = torch.randn(60, 100, generator=generator), torch.randn(7, generator=generator)
    codes, largest = quantised(big, table, block)
    square_codes, square_largest = quantised(big.square(), table, block)
    eight = {
        "state1": codes,
        "absmax1": largest,
        "qmap1": table,
        "state2": square_codes,
        "absmax2": square_largest,
        "qmap2": table,
    }
    state = {
        0: {"step": 5, "__bnb_optimizer_quant_state__": eight} if nested else {"step": 5, **eight},
        1: {"step": 5, "state1": small, "state2": small.square()},
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "params": [0, 1]}
    model = nn.Linear(100, 60)
    model.bias = nn.Parameter(torch.zeros(7))
    optimizer = stepwell.AdamW(model.parameters(), weight_decay=0.1)
    report = checkpoint.migrate({"state": state, "param_groups": [group]}, model=model, optimizer=optimizer)
    assert [(one.how, one.what) for one in report.moved] == [("kept", "exp_avg, exp_avg_sq")] * 2
    weight, bias = optimizer.state[model.weight], optimizer.state[model.bias]
    assert weight["step"] == 5
    # The codes are the nearest of 256 values that are 2/255 apart, times the largest of the block.
    spread = largest.repeat_interleave(block)[:6000].view(60, 100)
    assert ((weight["exp_avg"] - big).abs() <= spread / 255 + 1e-6).all()
    assert weight["exp_avg_sq"].dtype == torch.float32
    assert torch.equal(bias["exp_avg"], small)
    assert torch.equal(bias["exp_avg_sq"], small.square())


def test_bitsandbytes_of_a_rule_that_only_the_user_knows() -> None:
    model = nn.Linear(3, 2, bias=False)
    state = {"state": {0: {"step": 2, "state1": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    optimizer = stepwell.RMSprop(model.parameters())
    report = checkpoint.migrate(state, model=model, optimizer=optimizer, rule="rmsprop")
    assert [(one.how, one.what) for one in report.moved] == [("kept", "square_avg")]
    assert torch.equal(optimizer.state[model.weight]["square_avg"], torch.ones(2, 3))
    with pytest.raises(CheckpointError, match=r"^unknown rule 'rmspro' \(did you mean 'RMSprop'\?\)$"):
        checkpoint.migrate(state, model=model, optimizer=optimizer, rule="rmspro")
