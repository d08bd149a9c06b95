"""Trainings that other packages have begun and saved go on under ours, with the packages' own weights."""

from __future__ import annotations

import copy
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from stepwell import checkpoint

pytestmark = pytest.mark.peers


class Net(nn.Module):
    """Layers that every package sorts in its own way into those that decay and those that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.hidden = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.final_rmsnorm = nn.RMSNorm(8)
        self.head = nn.Linear(8, 12, bias=False)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.final_rmsnorm(self.norm(self.hidden(self.embedding(input_ids)).tanh()))
        logits = self.head(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def go(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.cos(3 * p.detach())
        optimizer.step()


def assert_near(a: nn.Module, b: nn.Module, tolerance: float = 1e-6) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["training", "averaged"])
@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        ("AdamWScheduleFree", "ScheduleFreeAdamW", {"lr": 0.05, "betas": (0.8, 0.9), "warmup_steps": 5, "r": 1.0}),
        ("SGDScheduleFree", "ScheduleFreeSGD", {"lr": 0.5, "weight_decay": 0.1, "warmup_steps": 2}),
        ("RAdamScheduleFree", "ScheduleFreeRAdam", {"lr": 0.05, "betas": (0.8, 0.99)}),
    ],
)
def test_schedulefree(theirs: str, ours: str, options: dict[str, Any], mode: str) -> None:
    package = pytest.importorskip("schedulefree")
    whole = net()
    first = getattr(package, theirs)(whole.parameters(), **options)
    first.train()
    go(whole, first, 6)
    if mode == "averaged":
        first.eval()
    model = net(3)
    model.load_state_dict(whole.state_dict())
    second = getattr(stepwell, ours)(model.parameters(), **options)
    report = checkpoint.migrate(copy.deepcopy(first.state_dict()), model=model, optimizer=second)
    assert {(one.how, one.rules) for one in report.moved} == {("kept", (ours, ours))}
    assert second.param_groups[0]["holds"] == mode
    first.train()
    second.train()
    go(whole, first, 6)
    go(model, second, 6)
    assert_near(model, whole, 1e-5)
    first.eval()
    with second.averaged():
        assert_near(model, whole, 1e-5)


def test_lion_pytorch() -> None:
    package = pytest.importorskip("lion_pytorch")
    whole = net()
    first = package.Lion(whole.parameters(), lr=0.01, weight_decay=0.1)
    go(whole, first, 3)
    model = copy.deepcopy(whole)
    second = stepwell.Lion(model.parameters(), lr=0.01, weight_decay=0.1)
    report = checkpoint.migrate(first.state_dict(), model=model, optimizer=second)
    assert {one.rules for one in report.moved} == {("Lion", "Lion")}
    go(whole, first, 3)
    go(model, second, 3)
    assert_near(model, whole)


def timm_groups(monkeypatch: pytest.MonkeyPatch) -> Any:
    """timm's own way to group parameters. timm itself imports torchvision, this function needs nothing of it."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("timm is not installed")
    for name in ("timm", "timm.models"):
        stub = types.ModuleType(name)
        stub.group_parameters = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, stub)
    path = f"{spec.submodule_search_locations[0]}/optim/_param_groups.py"
    found = importlib.util.spec_from_file_location("timm_param_groups", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.param_groups_weight_decay


@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_timm(weight_decay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = timm_groups(monkeypatch)
    whole = net()
    first = torch.optim.AdamW(groups(whole, weight_decay), lr=0.05)
    go(whole, first, 3)
    content = {"epoch": 4, "state_dict": whole.state_dict(), "optimizer": first.state_dict(), "metric": 0.5}
    torch.save(content, tmp_path / "last.pth.tar")
    model = net(3)
    second = stepwell.AdamW(groups(model, weight_decay), lr=0.05)
    report = checkpoint.migrate(tmp_path / "last.pth.tar", model=model, optimizer=second)
    assert {one.how for one in report.moved} == {"kept"}
    assert report.extra == {"epoch": 4, "metric": 0.5}
    go(whole, first, 3)
    go(model, second, 3)
    assert_near(model, whole)


def test_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    data = [{"input_ids": torch.tensor(i % 12), "labels": torch.tensor((i * 5) % 12)} for i in range(64)]

    def trainer(model: nn.Module, optimizers: Any, steps: int, folder: Path) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            save_steps=4,
            learning_rate=0.05,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            per_device_train_batch_size=8,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        return transformers.Trainer(model, arguments, train_dataset=data, optimizers=optimizers)

    whole = net()
    uninterrupted = trainer(whole, (None, None), 4, tmp_path / "whole")
    uninterrupted.train()
    folder = tmp_path / "whole" / "checkpoint-4"
    assert (folder / "optimizer.pt").is_file()
    model = net(3)
    names = {name for name, p in model.named_parameters() if p.ndim > 1}
    second = stepwell.AdamW(
        [
            {"params": [p for name, p in model.named_parameters() if name in names], "weight_decay": 0.1},
            {"params": [p for name, p in model.named_parameters() if name not in names], "weight_decay": 0.0},
        ],
        lr=0.05,
    )
    scheduler = stepwell.create_scheduler(second, "constant", horizon=10)
    report = checkpoint.migrate(folder, model=model, optimizer=second, scheduler=scheduler)
    assert {one.how for one in report.moved} == {"kept"}
    assert report.extra["global_step"] == 4
    assert scheduler.last_epoch == 4
    first = uninterrupted.optimizer
    while hasattr(first, "optimizer"):  # as Accelerate wraps it
        first = first.optimizer
    assert_near(model, whole, 0)
    go(whole, first, 3)
    go(model, second, 3)
    assert_near(model, whole)
