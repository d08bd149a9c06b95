"""The rules that are measured, with the hyper-parameters that every contender gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stepwell import rules
from stepwell.rules import Rule


@dataclass(frozen=True)
class Subject:
    """A rule with its hyper-parameters, and the dtype of weights, gradients and state."""

    name: str
    title: str
    rule: Rule
    dtype: torch.dtype = torch.float32


_ADAMW = rules.AdamW(lr=1e-4, weight_decay=0.1)

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("adamw", "AdamW", _ADAMW),
        Subject("sgd", "SGD + momentum", rules.SGD(lr=1e-3, momentum=0.9, weight_decay=1e-4)),
        Subject("lion", "Lion", rules.Lion(lr=1e-5, weight_decay=0.1)),
        Subject("lamb", "LAMB", rules.LAMB(lr=1e-4, weight_decay=0.1)),
        Subject("schedule-free", "Schedule-Free AdamW", rules.ScheduleFreeAdamW(lr=1e-4, weight_decay=0.1)),
        Subject("adamw-bf16", "AdamW, all bf16", _ADAMW, torch.bfloat16),
        Subject("muon", "Muon", rules.Muon(lr=1e-4, weight_decay=0.1)),
    )
}
