"""The rules: the maths of each optimizer, one file a paper."""

from stepwell.rules.adabelief import AdaBelief
from stepwell.rules.adadelta import Adadelta
from stepwell.rules.adafactor import Adafactor
from stepwell.rules.adagrad import Adagrad
from stepwell.rules.adam import Adam, AdamW
from stepwell.rules.adam_mini import AdamMini
from stepwell.rules.adamax import Adamax
from stepwell.rules.adamuon import AdaMuon
from stepwell.rules.adan import Adan
from stepwell.rules.ademamix import AdEMAMix
from stepwell.rules.adopt import ADOPT
from stepwell.rules.asgd import ASGD
from stepwell.rules.came import CAME
from stepwell.rules.clipping import agc, clip_value
from stepwell.rules.dadapt_adam import DAdaptAdam
from stepwell.rules.dion import Dion
from stepwell.rules.kron import Kron
from stepwell.rules.lamb import LAMB
from stepwell.rules.lars import LARS
from stepwell.rules.lion import Lion
from stepwell.rules.mars import MARS
from stepwell.rules.matrix_rule import MatrixRule, OneMatrixRule
from stepwell.rules.muon import Muon
from stepwell.rules.nadam import NAdam
from stepwell.rules.normuon import NorMuon
from stepwell.rules.novograd import NovoGrad
from stepwell.rules.prodigy import Prodigy
from stepwell.rules.radam import RAdam
from stepwell.rules.rmsprop import RMSprop
from stepwell.rules.rprop import Rprop
from stepwell.rules.rule import Rule, Slot, column_wise, row_wise, tensor_wise
from stepwell.rules.schedule_free import ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSGD
from stepwell.rules.scion import Scion
from stepwell.rules.sgd import SGD
from stepwell.rules.shampoo import Shampoo
from stepwell.rules.signsgd import SignSGD
from stepwell.rules.soap import SOAP
from stepwell.rules.stable_adamw import StableAdamW
from stepwell.rules.tiger import Tiger
from stepwell.rules.wrappers import cautious, ema, grokfast, lookahead, sam, schedule_free
from stepwell.rules.yogi import Yogi

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
    "Kron",
    "Lion",
    "MatrixRule",
    "Muon",
    "NAdam",
    "NorMuon",
    "NovoGrad",
    "OneMatrixRule",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Scion",
    "Shampoo",
    "SignSGD",
    "Slot",
    "StableAdamW",
    "Tiger",
    "Yogi",
    "agc",
    "cautious",
    "clip_value",
    "column_wise",
    "ema",
    "grokfast",
    "lookahead",
    "row_wise",
    "sam",
    "schedule_free",
    "tensor_wise",
]
