"""What Accelerate or Lightning puts around an optimizer and a scheduler is not what is saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from checkpoint.small_training import Training, language_model, seed
from stepwell import checkpoint
from stepwell.checkpoint.unwrapping import inner_optimizer, inner_scheduler


class Prepared(torch.optim.Optimizer):
    """As Accelerate's: all that it has is the inner one's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)  # type: ignore[assignment]
    param_groups = property(lambda self: self.optimizer.param_groups)  # type: ignore[assignment]

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.optimizer.load_state_dict(state_dict)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class PreparedScheduler:
    """As Accelerate's, which is no scheduler of torch's."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def step(self) -> None:
        self.scheduler.step()

    def state_dict(self) -> Any:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.scheduler.load_state_dict(state_dict)


class Remembering(Prepared):
    """As a Lookahead: it has state of its own, and saves it."""

    def state_dict(self) -> Any:
        return {**super().state_dict(), "slow": 1}


class RememberingScheduler(PreparedScheduler):
    def state_dict(self) -> Any:
        return {"scheduler": super().state_dict(), "turns": 3}


def prepared(of_torch: bool, *, seeded: int = 0, horizon: int = 20) -> tuple[Training, Training]:
    """A training, and the same one as a library has prepared it."""
    seed(seeded)
    model = language_model()
    optimizer: torch.optim.Optimizer
    scheduler: Any
    if of_torch:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    else:
        optimizer = stepwell.create_optimizer(model, "adamw", lr=0.01)
        scheduler = stepwell.create_scheduler(optimizer, "cosine", horizon=horizon)
    return Training(model, optimizer, scheduler), Training(model, Prepared(optimizer), PreparedScheduler(scheduler))


@pytest.mark.parametrize("of_torch", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_what_was_saved_prepared_goes_on_bare_and_the_other_way_round(
    turned: bool, of_torch: bool, tmp_path: Path
) -> None:
    saving, loading = prepared(of_torch), prepared(of_torch, seeded=3)
    saving[turned].go(3).save(tmp_path)
    assert not loading[not turned].load(tmp_path).differences
    assert loading[0].everything() == saving[0].everything()
    assert (checkpoint.inspect(tmp_path).recipe is None) == of_torch


def test_a_prepared_scheduler_hears_which_schedule_it_shall_go_on_under(tmp_path: Path) -> None:
    prepared(False)[1].go(3).save(tmp_path)
    bare, wrapped = prepared(False, horizon=40)
    wrapped.load(tmp_path, schedule="this")
    assert (bare.scheduler.last_epoch, bare.scheduler.horizon) == (3, 40)


def test_a_migration_sees_what_is_inside() -> None:
    source, target = prepared(False), prepared(False, seeded=3)
    source[0].go(3)
    done = checkpoint.migrate(
        source[1].optimizer, model=target[1].model, optimizer=target[1].optimizer, scheduler=target[1].scheduler
    )
    assert {(one.how, one.rules) for one in done.moved} == {("kept", ("AdamW", "AdamW"))}
    assert "stepwell" in done.source


def test_a_wrapper_that_keeps_something_stays() -> None:
    bare, wrapped = prepared(True)
    assert inner_optimizer(Prepared(wrapped.optimizer)) is bare.optimizer
    assert inner_scheduler(wrapped.scheduler) is bare.scheduler
    for keeping in (Remembering(bare.optimizer), RememberingScheduler(bare.scheduler)):
        assert inner_optimizer(keeping) is inner_scheduler(keeping) is keeping
    assert inner_optimizer(None) is inner_scheduler(None) is None
