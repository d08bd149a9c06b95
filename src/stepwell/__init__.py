"""stepwell: the part of deep-learning training that moves the weights."""

from stepwell import algebra, rules, schedules
from stepwell.describing import describe
from stepwell.facades import (
    ADOPT,
    ASGD,
    LAMB,
    LARS,
    MARS,
    SGD,
    AdaBelief,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    AdEMAMix,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
    SignSGD,
    StableAdamW,
    Tiger,
    Yogi,
)
from stepwell.optimizer import Optimizer
from stepwell.routing import create_optimizer
from stepwell.rules import Rule, Slot
from stepwell.scheduler import Scheduler, create_scheduler

__version__ = "0.1.0"

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "MARS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Scheduler",
    "SignSGD",
    "Slot",
    "StableAdamW",
    "Tiger",
    "Yogi",
    "algebra",
    "create_optimizer",
    "create_scheduler",
    "describe",
    "rules",
    "schedules",
]
