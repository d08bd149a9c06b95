"""stepwell: the part of deep-learning training that moves the weights."""

from stepwell import algebra, checkpoint, rules, schedules, select
from stepwell.advice import advise
from stepwell.catalogue import list_optimizers
from stepwell.facades import (
    ADOPT,
    ASGD,
    CAME,
    LAMB,
    LARS,
    MARS,
    SGD,
    SOAP,
    AdaBelief,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamMini,
    AdaMuon,
    AdamW,
    Adan,
    AdEMAMix,
    DAdaptAdam,
    Dion,
    Kron,
    Lion,
    Muon,
    NAdam,
    NorMuon,
    NovoGrad,
    Prodigy,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
    Scion,
    Shampoo,
    SignSGD,
    StableAdamW,
    Tiger,
    Yogi,
)
from stepwell.horizon import horizon
from stepwell.optimizer import Optimizer
from stepwell.optimizer.describing import describe
from stepwell.optimizer.in_backward import step_in_backward
from stepwell.optimizer.offloading import offload
from stepwell.optimizer.one_rule import optimizer_class
from stepwell.planning import Plan, plan
from stepwell.range_test import find_lr
from stepwell.recipes import Recipe, RecipeError, Route
from stepwell.routing import create_optimizer, create_scheduler
from stepwell.rules import Rule, Slot, agc, cautious, clip_value, ema, grokfast, lookahead, sam, schedule_free
from stepwell.scheduler import Scheduler
from stepwell.scheduler.plateau import Greedy, ReduceOnPlateau

__version__ = "0.1.0"


def __dir__() -> list[str]:
    """What is public, for those who complete names; the rooms inside are left out."""
    return [*__all__, "__version__"]


__all__ = [
    "ADOPT",
    "ASGD",
    "CAME",
    "LAMB",
    "LARS",
    "MARS",
    "SGD",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "AdaMuon",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adamax",
    "Adan",
    "DAdaptAdam",
    "Dion",
    "Greedy",
    "Kron",
    "Lion",
    "Muon",
    "NAdam",
    "NorMuon",
    "NovoGrad",
    "Optimizer",
    "Plan",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Recipe",
    "RecipeError",
    "ReduceOnPlateau",
    "Route",
    "Rprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Scheduler",
    "Scion",
    "Shampoo",
    "SignSGD",
    "Slot",
    "StableAdamW",
    "Tiger",
    "Yogi",
    "advise",
    "agc",
    "algebra",
    "cautious",
    "checkpoint",
    "clip_value",
    "create_optimizer",
    "create_scheduler",
    "describe",
    "ema",
    "find_lr",
    "grokfast",
    "horizon",
    "list_optimizers",
    "lookahead",
    "offload",
    "optimizer_class",
    "plan",
    "rules",
    "sam",
    "schedule_free",
    "schedules",
    "select",
    "step_in_backward",
]
