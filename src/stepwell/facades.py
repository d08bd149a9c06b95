"""Optimizers under torch's names: `stepwell.AdamW(params, lr=…)` is `Optimizer(params, rules.AdamW(lr=…))`.

Their signatures are derived from the fields of the rule.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, get_type_hints

from stepwell import rules
from stepwell.engines.choice import ENGINES
from stepwell.naming import nearest
from stepwell.optimizer import Optimizer
from stepwell.rules.rule import Rule, hyper_parameters

_OPTIONS = ("engine", "clip_norm", "on_nonfinite")
# Come last and by name only: fields of every rule, as torch has `maximize`, and what torch's rule of the name has not.
_BY_NAME = ("decay", "maximize", "correct_bias", "average", "conv1d", "split", "polar_express")


class _Named(Optimizer):
    """An optimizer whose rule is known."""

    rule_type: ClassVar[type[Rule]]

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        positional = [name for name in hyper_parameters(self.rule_type) if name not in _BY_NAME]
        if len(args) > len(positional):
            raise TypeError(
                f"{type(self).__name__} takes at most {len(positional)} hyper-parameters by position, got {len(args)}"
            )
        given = dict(zip(positional, args, strict=False))
        for name in given:
            if name in kwargs:
                raise TypeError(f"{type(self).__name__} got {name!r} twice: by position and by name")
        for name in kwargs:
            if name not in hyper_parameters(self.rule_type) and name not in _OPTIONS:
                known = [*hyper_parameters(self.rule_type), *_OPTIONS]
                hint = f"; write engine={name!r}" if name in ENGINES else nearest(name, known)
                raise TypeError(f"unknown hyper-parameter {name!r} for {self.rule_type.__name__}{hint}")
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        super().__init__(params, self.rule_type(**given, **kwargs), **options)


def optimizer_class(rule: type[Rule]) -> type[Optimizer]:
    """The class of optimizers of one rule, with the signature and the documentation of that rule."""
    return type(
        rule.__name__,
        (_Named,),
        {"rule_type": rule, "__signature__": _signature(rule), "__doc__": _doc(rule), "__module__": "stepwell"},
    )


def _signature(rule: type[Rule]) -> inspect.Signature:
    defaults, hints = rule().values(), get_type_hints(rule)
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY if name in _BY_NAME else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=defaults[name],
            annotation=hints[name],
        )
        for name in sorted(defaults, key=lambda name: name in _BY_NAME)
    ]
    known = inspect.signature(Optimizer.__init__, eval_str=True).parameters
    params = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([params, *fields, *(known[name] for name in _OPTIONS)])


def _doc(rule: type[Rule]) -> str:
    return f"{inspect.cleandoc(rule.__doc__ or '')}\n\nThe other arguments, and what it is: `stepwell.Optimizer`."


SGD = optimizer_class(rules.SGD)
Adagrad = optimizer_class(rules.Adagrad)
RMSprop = optimizer_class(rules.RMSprop)
Adadelta = optimizer_class(rules.Adadelta)
Adam = optimizer_class(rules.Adam)
AdamW = optimizer_class(rules.AdamW)
NAdam = optimizer_class(rules.NAdam)
RAdam = optimizer_class(rules.RAdam)
Adamax = optimizer_class(rules.Adamax)
ASGD = optimizer_class(rules.ASGD)
Rprop = optimizer_class(rules.Rprop)
SignSGD = optimizer_class(rules.SignSGD)
LARS = optimizer_class(rules.LARS)
LAMB = optimizer_class(rules.LAMB)
Yogi = optimizer_class(rules.Yogi)
AdaBelief = optimizer_class(rules.AdaBelief)
Adan = optimizer_class(rules.Adan)
ADOPT = optimizer_class(rules.ADOPT)
AdEMAMix = optimizer_class(rules.AdEMAMix)
StableAdamW = optimizer_class(rules.StableAdamW)
Tiger = optimizer_class(rules.Tiger)
MARS = optimizer_class(rules.MARS)
Lion = optimizer_class(rules.Lion)
Muon = optimizer_class(rules.Muon)
ScheduleFreeSGD = optimizer_class(rules.ScheduleFreeSGD)
ScheduleFreeAdamW = optimizer_class(rules.ScheduleFreeAdamW)
ScheduleFreeRAdam = optimizer_class(rules.ScheduleFreeRAdam)
NorMuon = optimizer_class(rules.NorMuon)
AdaMuon = optimizer_class(rules.AdaMuon)
Scion = optimizer_class(rules.Scion)
Dion = optimizer_class(rules.Dion)
SOAP = optimizer_class(rules.SOAP)
Shampoo = optimizer_class(rules.Shampoo)
Kron = optimizer_class(rules.Kron)
Adafactor = optimizer_class(rules.Adafactor)
CAME = optimizer_class(rules.CAME)
AdamMini = optimizer_class(rules.AdamMini)
NovoGrad = optimizer_class(rules.NovoGrad)
Prodigy = optimizer_class(rules.Prodigy)
DAdaptAdam = optimizer_class(rules.DAdaptAdam)
