"""The rules: the maths of each optimizer, one file a paper."""

from stepwell.rules.adam import Adam, AdamW
from stepwell.rules.lamb import LAMB
from stepwell.rules.lion import Lion
from stepwell.rules.muon import Muon
from stepwell.rules.rule import Rule, Slot
from stepwell.rules.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from stepwell.rules.sgd import SGD

__all__ = [
    "LAMB",
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "Muon",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Slot",
]
