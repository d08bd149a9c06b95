"""Optimizers under torch's names: `stepwell.AdamW(params, lr=…)` is `Optimizer(params, rules.AdamW(lr=…))`.

What types they take is written in `facades.pyi`, for those who read code without running it; `python -m bench stub`
makes it from the same signatures.
"""

from __future__ import annotations

from stepwell import rules
from stepwell.optimizer.one_rule import class_of

SGD = class_of(rules.SGD)
Adagrad = class_of(rules.Adagrad)
RMSprop = class_of(rules.RMSprop)
Adadelta = class_of(rules.Adadelta)
Adam = class_of(rules.Adam)
AdamW = class_of(rules.AdamW)
NAdam = class_of(rules.NAdam)
RAdam = class_of(rules.RAdam)
Adamax = class_of(rules.Adamax)
ASGD = class_of(rules.ASGD)
Rprop = class_of(rules.Rprop)
SignSGD = class_of(rules.SignSGD)
LARS = class_of(rules.LARS)
LAMB = class_of(rules.LAMB)
Yogi = class_of(rules.Yogi)
AdaBelief = class_of(rules.AdaBelief)
Adan = class_of(rules.Adan)
ADOPT = class_of(rules.ADOPT)
AdEMAMix = class_of(rules.AdEMAMix)
StableAdamW = class_of(rules.StableAdamW)
Tiger = class_of(rules.Tiger)
MARS = class_of(rules.MARS)
Lion = class_of(rules.Lion)
Muon = class_of(rules.Muon)
ScheduleFreeSGD = class_of(rules.ScheduleFreeSGD)
ScheduleFreeAdamW = class_of(rules.ScheduleFreeAdamW)
ScheduleFreeRAdam = class_of(rules.ScheduleFreeRAdam)
NorMuon = class_of(rules.NorMuon)
AdaMuon = class_of(rules.AdaMuon)
Scion = class_of(rules.Scion)
Dion = class_of(rules.Dion)
SOAP = class_of(rules.SOAP)
Shampoo = class_of(rules.Shampoo)
Kron = class_of(rules.Kron)
Adafactor = class_of(rules.Adafactor)
CAME = class_of(rules.CAME)
AdamMini = class_of(rules.AdamMini)
NovoGrad = class_of(rules.NovoGrad)
Prodigy = class_of(rules.Prodigy)
DAdaptAdam = class_of(rules.DAdaptAdam)
