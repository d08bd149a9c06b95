"""stepwell: the part of deep-learning training that moves the weights."""

from stepwell import algebra, rules, schedules
from stepwell.describing import describe
from stepwell.facades import (
    CAME,
    LAMB,
    SGD,
    SOAP,
    Adafactor,
    Adam,
    AdamMini,
    AdaMuon,
    AdamW,
    DAdaptAdam,
    Dion,
    Kron,
    Lion,
    Muon,
    NorMuon,
    NovoGrad,
    Prodigy,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Scion,
    Shampoo,
)
from stepwell.optimizer import Optimizer
from stepwell.routing import create_optimizer
from stepwell.rules import Rule, Slot, cautious, ema, grokfast, lookahead, sam, schedule_free
from stepwell.scheduler import Scheduler, create_scheduler

__version__ = "0.1.0"

__all__ = [
    "CAME",
    "LAMB",
    "SGD",
    "SOAP",
    "AdaMuon",
    "Adafactor",
    "Adam",
    "AdamMini",
    "AdamW",
    "DAdaptAdam",
    "Dion",
    "Kron",
    "Lion",
    "Muon",
    "NorMuon",
    "NovoGrad",
    "Optimizer",
    "Prodigy",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Scheduler",
    "Scion",
    "Shampoo",
    "Slot",
    "algebra",
    "cautious",
    "create_optimizer",
    "create_scheduler",
    "describe",
    "ema",
    "grokfast",
    "lookahead",
    "rules",
    "sam",
    "schedule_free",
    "schedules",
]
