"""A Scheduler that passes as torch's LambdaLR, as everything in transformers' schedules does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stepwell.scheduler import Scheduler
from stepwell.scheduler.tracks import Selector
from stepwell.schedules import Schedule


class LambdaScheduler(Scheduler, LambdaLR):
    """A `Scheduler` of the learning rate that is a `LambdaLR` too: `lr_lambdas` are its schedules, one a group.

    A state that transformers' own scheduler saved loads as well: it holds the step, and no word of the schedule.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule | Mapping[Selector, Schedule], last_epoch: int = -1
    ) -> None:
        Scheduler.__init__(self, optimizer, last_epoch=last_epoch, lr=schedule)

    @property
    def lr_lambdas(self) -> list[Callable[[int], float]]:  # type: ignore[override]
        """The schedule of each group, a function of the step."""
        schedules = {id(group): track.schedule for track in self._tracks for group in track.groups}
        return [schedules.get(id(group), _one) for group in self.optimizer.param_groups]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], *, schedule: Literal["same", "this", "saved"] | None = None
    ) -> None:
        """Go to the saved step and set its values at once; see `Scheduler.load_state_dict`."""
        if "step" not in state_dict and "last_epoch" in state_dict:
            state_dict, schedule = {"step": state_dict["last_epoch"]}, "this"
        super().load_state_dict(state_dict, schedule=schedule)


def _one(_: int) -> float:
    return 1.0
