"""stepwell: the part of deep-learning training that moves the weights."""

from stepwell import algebra, rules, schedules
from stepwell.advice import advise
from stepwell.describing import describe
from stepwell.facades import LAMB, SGD, Adam, AdamW, Lion, Muon, ScheduleFreeAdamW, ScheduleFreeSGD
from stepwell.optimizer import Optimizer
from stepwell.plateau import Greedy, ReduceOnPlateau
from stepwell.range_test import find_lr
from stepwell.routing import create_optimizer
from stepwell.rules import Rule, Slot
from stepwell.scheduler import Scheduler, create_scheduler

__version__ = "0.1.0"

__all__ = [
    "LAMB",
    "SGD",
    "Adam",
    "AdamW",
    "Greedy",
    "Lion",
    "Muon",
    "Optimizer",
    "ReduceOnPlateau",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Scheduler",
    "Slot",
    "advise",
    "algebra",
    "create_optimizer",
    "create_scheduler",
    "describe",
    "find_lr",
    "rules",
    "schedules",
]
