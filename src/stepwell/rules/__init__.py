"""The rules: the maths of each optimizer, one file a paper."""

from stepwell.rules.adam import Adam, AdamW
from stepwell.rules.lamb import LAMB
from stepwell.rules.lion import Lion
from stepwell.rules.muon import Muon
from stepwell.rules.rule import Rule, Slot, column_wise, row_wise, tensor_wise
from stepwell.rules.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from stepwell.rules.sgd import SGD
from stepwell.rules.wrappers import cautious, ema, grokfast, lookahead, sam, schedule_free

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
    "cautious",
    "column_wise",
    "ema",
    "grokfast",
    "lookahead",
    "row_wise",
    "sam",
    "schedule_free",
    "tensor_wise",
]
