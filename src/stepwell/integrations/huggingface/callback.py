"""A callback for transformers' Trainer that tells the plan and the numbers of the optimizer."""

from __future__ import annotations

import logging
from typing import Any

from stepwell.integrations.huggingface.package import transformers
from stepwell.integrations.scalars import rate_name, scalars
from stepwell.optimizer import Optimizer
from stepwell.optimizer.describing import describe
from stepwell.optimizer.unwrapping import bare

_LOG = logging.getLogger("stepwell")


class StepwellCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Logs what goes where when a training begins, and the optimizer's numbers beside every loss.

    The plan goes to the logger "stepwell" (INFO). The numbers (`stepwell.integrations.scalars`: each group's learning
    rate by its name, the gradient norm, and of an optimizer of ours, which is observed then, its telemetry) join the
    Trainer's own logs.

    `stepwell.integrations.huggingface.Trainer` hands them to every reporter. transformers' own Trainer asks its
    callbacks in order: there a reporter hears them if this one is first,
    `trainer.callback_handler.callbacks.insert(0, stepwell_callback())`.
    """

    def __init__(self) -> None:
        self._rates: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, *, optimizer: Any = None, **_: Any) -> None:
        if isinstance(inner := bare(optimizer), Optimizer):
            inner.observe()
        if optimizer is not None and state.is_world_process_zero:
            _LOG.info("training of %s steps:\n%s", state.max_steps, describe(bare(optimizer)))

    def on_step_begin(self, args: Any, state: Any, control: Any, *, optimizer: Any = None, **_: Any) -> None:
        # When the Trainer logs a step, its scheduler has gone on to the next.
        self._rates = [] if optimizer is None else [group["lr"] for group in optimizer.param_groups]

    def on_log(self, args: Any, state: Any, control: Any, *, logs: Any = None, optimizer: Any = None, **_: Any) -> None:
        if logs is None or optimizer is None or not of_training(logs):
            return
        found = {name: value for name, value in self.numbers(optimizer).items() if name not in logs}
        logs.update(found)
        if state.log_history:
            state.log_history[-1].update(found)

    def numbers(self, optimizer: Any) -> dict[str, float]:
        """What there is to say of the optimizer's last step."""
        found = scalars(optimizer)
        if len(self._rates) == len(optimizer.param_groups):
            found |= {
                rate_name(group, index): float(self._rates[index]) for index, group in enumerate(optimizer.param_groups)
            }
        return found


stepwell_callback = StepwellCallback


def of_training(logs: dict[str, Any]) -> bool:
    """Whether these are the logs of a step, not of an evaluation or of a whole training."""
    return "loss" in logs
