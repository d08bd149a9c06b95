"""The schedules and optimizers of `transformers.optimization` under its names, without transformers.

    from stepwell.integrations.huggingface import AdamW, get_scheduler

Every function takes transformers' arguments and gives a `torch.optim.lr_scheduler.LambdaLR` (also a
`stepwell.Scheduler`) with transformers' values at every step up to the horizon. Where they differ, and why, stands in
docs/schedules.md. The optimizers, `AdamW` and `Adafactor`, have the signatures and the values of transformers 4.34.

`Trainer`, `TrainingArguments`, the mixins of both and `stepwell_callback` need transformers, and import it when they
are asked for; docs/huggingface.md shows them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepwell.integrations.huggingface.adafactor import AdafactorSchedule, get_adafactor_schedule
from stepwell.integrations.huggingface.factory import SchedulerType, get_scheduler
from stepwell.integrations.huggingface.metric import get_greedy_schedule, get_reduce_on_plateau_schedule
from stepwell.integrations.huggingface.optimizers import Adafactor, AdamW
from stepwell.integrations.huggingface.schedules import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
    get_wsd_schedule,
)

if TYPE_CHECKING:
    from stepwell.integrations.huggingface.arguments import TrainingArguments, TrainingArgumentsMixin
    from stepwell.integrations.huggingface.callback import stepwell_callback
    from stepwell.integrations.huggingface.trainer import Trainer, TrainerMixin

__all__ = [
    "Adafactor",
    "AdafactorSchedule",
    "AdamW",
    "SchedulerType",
    "Trainer",
    "TrainerMixin",
    "TrainingArguments",
    "TrainingArgumentsMixin",
    "get_adafactor_schedule",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
    "get_greedy_schedule",
    "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup",
    "get_polynomial_decay_schedule_with_warmup",
    "get_reduce_on_plateau_schedule",
    "get_scheduler",
    "get_wsd_schedule",
    "stepwell_callback",
]

_WITH_TRANSFORMERS = {
    "Trainer": "trainer",
    "TrainerMixin": "trainer",
    "TrainingArguments": "arguments",
    "TrainingArgumentsMixin": "arguments",
    "stepwell_callback": "callback",
}


def __getattr__(name: str) -> Any:
    """What stands on transformers, imported when it is asked for."""
    if name not in _WITH_TRANSFORMERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_TRANSFORMERS[name]}"), name)
