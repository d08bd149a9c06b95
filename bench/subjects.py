"""The rules that are measured, with the hyper-parameters that every contender gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stepwell import rules
from stepwell.rules import Rule


@dataclass(frozen=True)
class Subject:
    """A rule with its hyper-parameters, and the dtype of weights, gradients and state.

    A rule that does more in some steps than in others says after how many it comes round: its time is their mean.
    `storage` is how ours is stored, where that is not as the weights are, as keywords of `stepwell.Optimizer`.
    """

    name: str
    title: str
    rule: Rule
    dtype: torch.dtype = torch.float32
    cycle: int = 1
    storage: tuple[tuple[str, Any], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of our optimizer."""
        return dict(self.storage)


_ADAMW = rules.AdamW(lr=1e-4, weight_decay=0.1)
# Where the paper is silent, as torch has it; its eps is (that of float32, 1e-3) by default.
_ADAFACTOR = rules.Adafactor(lr=1e-2, weight_decay=0.1, eps=(2.0**-23, 1e-3), eps_as_floor=True, decay="decoupled")
_SOAP = rules.SOAP(lr=1e-4, weight_decay=0.01)

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("adamw", "AdamW", _ADAMW),
        Subject("sgd", "SGD + momentum", rules.SGD(lr=1e-3, momentum=0.9, weight_decay=1e-4)),
        Subject("lion", "Lion", rules.Lion(lr=1e-5, weight_decay=0.1)),
        Subject("lamb", "LAMB", rules.LAMB(lr=1e-4, weight_decay=0.1)),
        Subject("schedule-free", "Schedule-Free AdamW", rules.ScheduleFreeAdamW(lr=1e-4, weight_decay=0.1)),
        Subject("adamw-bf16", "AdamW, all bf16", _ADAMW, torch.bfloat16),
        Subject(
            "adamw-stochastic",
            "AdamW, bf16 weights with stochastic rounding",
            _ADAMW,
            torch.bfloat16,
            storage=(("master", "stochastic"), ("state_dtype", "bfloat16")),
        ),
        Subject("adamw-8bit", "AdamW, 8-bit state", _ADAMW, storage=(("state_dtype", "8bit"),)),
        Subject("rmsprop", "RMSprop", rules.RMSprop(lr=1e-4, weight_decay=1e-4)),
        Subject("nadam", "NAdam", rules.NAdam(lr=1e-4, weight_decay=1e-4)),
        Subject("adagrad", "Adagrad", rules.Adagrad(lr=1e-3, weight_decay=1e-4)),
        Subject("adafactor", "Adafactor", _ADAFACTOR),
        Subject("lars", "LARS", rules.LARS(lr=1.0, weight_decay=1e-4)),
        Subject("adabelief", "AdaBelief", rules.AdaBelief(lr=1e-4, weight_decay=0.1)),
        Subject("adan", "Adan", rules.Adan(lr=1e-4, weight_decay=0.02)),
        Subject("ademamix", "AdEMAMix", rules.AdEMAMix(lr=1e-4, weight_decay=0.1)),
        Subject("muon", "Muon", rules.Muon(lr=1e-4, weight_decay=0.1)),
        Subject("soap", "SOAP", _SOAP, cycle=_SOAP.precondition_frequency),
    )
}
