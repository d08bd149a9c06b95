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
    `storage` is how ours is stored, where that is not as the weights are, as keywords of `stepwell.Optimizer`. With
    `clip_norm` the gradients are clipped first. What is `observed` is measured beside itself as it is otherwise.
    """

    name: str
    title: str
    rule: Rule
    dtype: torch.dtype = torch.float32
    cycle: int = 1
    storage: tuple[tuple[str, Any], ...] = ()
    clip_norm: float | None = None
    observed: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is the rule alone, in float32."""
        return self.dtype == torch.float32 and not self.storage and self.clip_norm is None and not self.observed


_ADAMW = rules.AdamW(lr=1e-4, weight_decay=0.1)
# Where the paper is silent, as torch has it; its eps is (that of float32, 1e-3) by default.
_ADAFACTOR = rules.Adafactor(lr=1e-2, weight_decay=0.1, eps=(2.0**-23, 1e-3), eps_as_floor=True, decay="decoupled")
_SOAP = rules.SOAP(lr=1e-4, weight_decay=0.01)
_SHAMPOO = rules.Shampoo(lr=1e-4, precondition_frequency=10, max_precond_dim=1024)

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
        Subject("adamw-clipped", "AdamW, gradients clipped", _ADAMW, clip_norm=1.0),
        Subject("adamw-observed", "AdamW, with telemetry", _ADAMW, observed=True),
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
        Subject("adam", "Adam", rules.Adam(lr=1e-4, weight_decay=1e-4)),
        Subject("adadelta", "Adadelta", rules.Adadelta(lr=1e-2, weight_decay=1e-4)),
        Subject("adamax", "Adamax", rules.Adamax(lr=1e-4, weight_decay=1e-4)),
        Subject("radam", "RAdam", rules.RAdam(lr=1e-4, weight_decay=1e-4)),
        Subject("rprop", "Rprop", rules.Rprop(lr=1e-4)),
        Subject("asgd", "ASGD", rules.ASGD(lr=1e-4, weight_decay=1e-4)),
        Subject("signsgd", "SignSGD + momentum", rules.SignSGD(lr=1e-5, momentum=0.9, weight_decay=0.1)),
        Subject("tiger", "Tiger", rules.Tiger(lr=1e-5, weight_decay=0.1)),
        Subject("adopt", "ADOPT", rules.ADOPT(lr=1e-4, weight_decay=1e-4)),
        Subject("yogi", "Yogi", rules.Yogi(lr=1e-4, weight_decay=0.1)),
        Subject("mars", "MARS", rules.MARS(lr=1e-4, weight_decay=0.1)),
        Subject("novograd", "NovoGrad", rules.NovoGrad(lr=1e-4, weight_decay=1e-3)),
        Subject("stable-adamw", "StableAdamW", rules.StableAdamW(lr=1e-4, weight_decay=0.1)),
        Subject("adam-mini", "Adam-mini", rules.AdamMini(lr=1e-4, weight_decay=0.1)),
        Subject("came", "CAME", rules.CAME(lr=1e-4, weight_decay=0.1)),
        Subject("schedule-free-sgd", "Schedule-Free SGD", rules.ScheduleFreeSGD(lr=1e-2, weight_decay=1e-4)),
        Subject("schedule-free-radam", "Schedule-Free RAdam", rules.ScheduleFreeRAdam(lr=1e-4, weight_decay=0.1)),
        Subject("prodigy", "Prodigy", rules.Prodigy(weight_decay=0.1)),
        Subject("dadapt-adam", "D-Adapt Adam", rules.DAdaptAdam(weight_decay=0.1)),
        Subject("normuon", "NorMuon", rules.NorMuon(lr=1e-4, weight_decay=0.1)),
        Subject("adamuon", "AdaMuon", rules.AdaMuon(lr=1e-4, weight_decay=0.1)),
        Subject("scion", "Scion", rules.Scion(lr=1e-4)),
        Subject("dion", "Dion, a quarter of the ranks", rules.Dion(lr=1e-4, weight_decay=0.01, rank_fraction=0.25)),
        Subject("kron", "Kron, updated at each step", rules.Kron(lr=1e-4, preconditioner_update_probability=1.0)),
        Subject(
            "shampoo",
            "Shampoo, roots at each tenth step, of sides up to 1024",
            _SHAMPOO,
            cycle=_SHAMPOO.precondition_frequency,
        ),
    )
}
