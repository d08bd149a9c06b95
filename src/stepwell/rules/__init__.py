"""The rules: the maths of each optimizer, one file a paper."""

from stepwell.rules.adafactor import Adafactor
from stepwell.rules.adam import Adam, AdamW
from stepwell.rules.adam_mini import AdamMini
from stepwell.rules.adamuon import AdaMuon
from stepwell.rules.came import CAME
from stepwell.rules.dadapt_adam import DAdaptAdam
from stepwell.rules.dion import Dion
from stepwell.rules.kron import Kron
from stepwell.rules.lamb import LAMB
from stepwell.rules.lion import Lion
from stepwell.rules.muon import Muon
from stepwell.rules.normuon import NorMuon
from stepwell.rules.novograd import NovoGrad
from stepwell.rules.prodigy import Prodigy
from stepwell.rules.rule import Rule, Slot, column_wise, row_wise, tensor_wise
from stepwell.rules.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from stepwell.rules.scion import Scion
from stepwell.rules.sgd import SGD
from stepwell.rules.shampoo import Shampoo
from stepwell.rules.soap import SOAP
from stepwell.rules.wrappers import cautious, ema, grokfast, lookahead, sam, schedule_free

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
    "Prodigy",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Scion",
    "Shampoo",
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
