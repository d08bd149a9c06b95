"""Lightning really trains: intervals, names, mixed rules, Schedule-Free, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.schedules import Cosine

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # it warns of much that is not ours

BATCHES = 8


def data(length: int = 2 * BATCHES) -> Any:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(length, 6, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, inputs[:, :3].sum(1)), batch_size=2)


def module(recipe: Any, watch: list[str] | None = None, **given: Any) -> Any:
    import lightning.pytorch as pl

    from stepwell.integrations import lightning

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.model = nn.Sequential(
                nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1)
            )

        def loss(self, batch: list[Tensor], where: str) -> Tensor:
            optimizers = self.trainer.optimizers
            if watch is not None and optimizers:
                watch.append(f"{where} {optimizers[0].param_groups[0].get('holds')}")
            return (self.model(batch[0])[:, 0] - batch[1]).square().mean()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.loss(batch, "train")

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.log("loss", self.loss(batch, "validate"))

        def configure_optimizers(self) -> Any:
            return lightning.configure(self, recipe, **given)

    return Module()


def trainer(folder: Path, **given: Any) -> Any:
    import lightning.pytorch as pl

    common = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 2}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    return pl.Trainer(**{**common, **quiet, **given})


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_schedule_follows_the_steps(accumulation: int, tmp_path: Path) -> None:
    made = module("muon", lr=0.01)
    training = trainer(tmp_path, accumulate_grad_batches=accumulation)
    training.fit(made, data())
    steps = {1: 16, 3: 6}[accumulation]  # eight batches an epoch: eight steps, or two of three and one of two
    (config,) = training.lr_scheduler_configs
    assert (config.interval, config.frequency) == ("step", 1)
    assert training.global_step == config.scheduler.last_epoch == steps
    assert config.scheduler.schedules == {"lr": Cosine(warmup=max(1, round(0.1 * steps)), horizon=steps)}
    assert {group["rule"] for group in training.optimizers[0].param_groups} == {"Muon", "AdamW"}
    assert [group["lr"] for group in training.optimizers[0].param_groups] == pytest.approx([0.0] * 3)


def test_it_trains(tmp_path: Path) -> None:
    made = module("muon", lr=0.03)
    training = trainer(tmp_path, max_epochs=10)
    before = float(torch.stack([(made.model(x)[:, 0] - y).square().mean() for x, y in data()]).mean())
    training.fit(made, data())
    after = float(torch.stack([(made.model(x)[:, 0] - y).square().mean() for x, y in data()]).mean())
    assert after < 0.5 * before


def test_learning_rate_monitor_shows_the_groups(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    made = module(stepwell.Recipe.preset("muon-original").replace(schedules={"lr": stepwell.schedules.Linear()}))
    monitor = LearningRateMonitor()
    trainer(tmp_path, logger=logger, callbacks=[monitor], log_every_n_steps=4, max_epochs=1).fit(made, data())
    assert set(monitor.lrs) == {"lr/hidden", "lr/adamw", "lr/adamw undecayed"}
    # From 0.02 and 3e-4 in a line to 0 over eight steps, seen before the fourth and the eighth.
    assert monitor.lrs["lr/hidden"] == pytest.approx([0.02 * 5 / 8, 0.02 / 8])
    assert monitor.lrs["lr/adamw"] == pytest.approx([3e-4 * 5 / 8, 3e-4 / 8])


def test_a_callback_puts_another_schedule_in_its_place(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging

    seen: list[float] = []

    class Watching(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    averaging = StochasticWeightAveraging(swa_lrs=5e-3, swa_epoch_start=2, annealing_epochs=1)
    made = module(stepwell.Recipe.preset("adamw").replace(schedules={"lr": stepwell.schedules.Linear()}), lr=0.01)
    trainer(tmp_path, callbacks=[averaging, Watching()], max_epochs=3).fit(made, data())
    ours, first, then = seen[:BATCHES], seen[BATCHES : 2 * BATCHES], seen[2 * BATCHES :]
    assert ours == pytest.approx([0.01 * (1 - step / 24) for step in range(BATCHES)])
    assert first == pytest.approx([0.01 * (1 - BATCHES / 24)] * BATCHES)
    assert then == pytest.approx([5e-3] * BATCHES)


def test_schedule_free_is_evaluated_on_the_average(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from stepwell.integrations.lightning import AveragedWeights

    seen: list[str] = []
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
    made = module("schedule-free", seen, lr=0.05)
    training = trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, num_sanity_val_steps=0)
    training.fit(made, data(), data(2))
    epoch = [*["train training"] * BATCHES, "validate averaged"]
    assert seen == epoch * 2
    assert sum(isinstance(one, AveragedWeights) for one in training.callbacks) == 1
    optimizer = training.optimizers[0]
    assert {group["holds"] for group in optimizer.param_groups} == {"averaged"}  # what to use it with
    saved = torch.load(tmp_path / "step=12.ckpt", weights_only=True)
    assert {group["holds"] for group in saved["optimizer_states"][0]["param_groups"]} == {"averaged"}
    average = [p.detach().clone() for p in made.parameters()]
    optimizer.train()
    assert not all(map(torch.equal, average, made.parameters()))


@pytest.mark.parametrize("recipe", ["muon", "schedule-free"])
def test_a_resumed_training_is_the_uninterrupted_one(recipe: str, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fitted(resume: Path | None) -> Any:
        saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=8, save_top_k=-1)
        made = module(recipe, lr=0.02)
        training = trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, accumulate_grad_batches=1)
        training.fit(made, data(), ckpt_path=resume)
        assert training.global_step == 16
        assert training.lr_scheduler_configs[0].scheduler.last_epoch == 16
        return [p.detach().clone() for p in made.parameters()]

    whole = fitted(None)
    assert all(map(torch.equal, fitted(tmp_path / "step=8.ckpt"), whole))


@pytest.mark.parametrize("weights_only", [False, True])
def test_every_checkpoint_holds_the_average(weights_only: bool, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_weights_only=weights_only)
    made = module("schedule-free", lr=0.05)
    training = trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, max_steps=3)
    training.fit(made, data())  # which leaves the module with its average
    saved = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert ("optimizer_states" in saved) != weights_only
    average = {name: p.detach().clone() for name, p in made.named_parameters()}
    training.optimizers[0].train()
    for name, p in made.named_parameters():
        assert torch.equal(saved["state_dict"][name], average[name])
        assert not torch.equal(saved["state_dict"][name], p)


def test_a_training_that_has_saved_weights_alone_is_the_undisturbed_one(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fitted(*callbacks: Any) -> list[Tensor]:
        made = module("schedule-free", lr=0.05)
        training = trainer(tmp_path, callbacks=list(callbacks), enable_checkpointing=bool(callbacks))
        training.fit(made, data())
        return [p.detach().clone() for p in made.parameters()]

    saved = fitted(ModelCheckpoint(tmp_path, every_n_train_steps=3, save_weights_only=True))
    for p, q in zip(saved, fitted(), strict=True):
        torch.testing.assert_close(p, q)  # there and back rounds


def test_a_resumed_training_may_have_more_epochs(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=1)
    first.fit(module("muon", lr=0.02), data())
    first.save_checkpoint(tmp_path / "one.ckpt")
    second = trainer(tmp_path, max_epochs=2)
    second.fit(module("muon", lr=0.02), data(), ckpt_path=tmp_path / "one.ckpt")
    scheduler = second.lr_scheduler_configs[0].scheduler
    assert (second.global_step, scheduler.last_epoch, scheduler.schedules["lr"].horizon) == (16, 16, 16)


def test_sixteen_bits_and_clipping_in_the_optimizer(tmp_path: Path) -> None:
    made = module(stepwell.Recipe.preset("gpt").replace(clip_norm=0.1), lr=0.01)
    training = trainer(tmp_path, precision="bf16-mixed")
    training.fit(made, data())
    assert training.optimizers[0].gradient_norm > 0.1
    assert training.lr_scheduler_configs[0].scheduler.last_epoch == 16


def test_without_a_trainer_the_horizon_is_given() -> None:
    made = module("adamw", horizon=10)
    configured = made.configure_optimizers()
    assert configured["lr_scheduler"]["scheduler"].horizon == 10
    with pytest.raises(ValueError, match="horizon"):
        module("adamw").configure_optimizers()


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^recipe must be a stepwell.Recipe, or the name of .* or a file, got 3$"):
        module(3).configure_optimizers()
    with pytest.raises(ValueError, match=r"^unknown recipe 'moun' \(did you mean 'muon'\?\)"):
        module("moun", horizon=3).configure_optimizers()
    with pytest.raises(TypeError, match=r"^unknown hyper-parameter 'rl' for AdamW"):
        module("adamw", horizon=3, rl=0.1).configure_optimizers()
