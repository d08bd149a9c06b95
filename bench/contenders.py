"""Who is measured: stepwell, and each peer that is installed. A peer is one entry in a table."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import stepwell
from bench.subjects import Subject
from stepwell.rules import Rule

OURS = "stepwell"

# A function of the imported module, the parameters, and the rule whose hyper-parameters it takes over.
Factory = Callable[[Any, list[Any], Any], Any]
# From parameters to an optimizer.
Build = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Peer:
    """One implementation of a rule.

    Args:
        name: how the tables call it.
        subjects: the names of the subjects that it takes part in.
        module: what is imported, once it is needed.
        package: what pip installs.
        make: builds the optimizer.
    """

    name: str
    subjects: tuple[str, ...]
    module: str
    package: str
    make: Factory

    def problem(self) -> str:
        """Why it cannot take part; empty where it can."""
        if importlib.util.find_spec(self.module.partition(".")[0]) is None:
            return "not installed"
        try:
            importlib.import_module(self.module)
        except Exception as error:
            return f"cannot be imported: {error}"
        return ""

    def version(self) -> str:
        """Package and version."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def build(self, parameters: list[Any], rule: Rule) -> Any:
        """The optimizer of these parameters, ready to train."""
        optimizer = self.make(importlib.import_module(self.module), parameters, rule)
        if "schedule-free" in self.subjects and hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer


def _torch(name: str, subjects: Sequence[str], how: dict[str, bool], make: Callable[..., Any]) -> Peer:
    return Peer(f"torch {name}", tuple(subjects), "torch", "torch", lambda m, p, r: make(m.optim, p, r, how))


def _torch_adamw(optim: Any, p: list[Any], r: Any, how: dict[str, bool]) -> Any:
    return optim.AdamW(p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay, **how)


def _torch_sgd(optim: Any, p: list[Any], r: Any, how: dict[str, bool]) -> Any:
    return optim.SGD(p, lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay, **how)


_FUSED, _FOREACH, _LOOP = {"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}

PEERS = (
    _torch("fused", ("adamw", "adamw-bf16"), _FUSED, _torch_adamw),
    _torch("foreach", ("adamw", "adamw-bf16"), _FOREACH, _torch_adamw),
    _torch("loop", ("adamw",), _LOOP, _torch_adamw),
    Peer(
        "optimi",
        ("adamw",),
        "optimi",
        "torch-optimi",
        lambda m, p, r: m.AdamW(p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay),
    ),
    _torch("fused", ("sgd",), _FUSED, _torch_sgd),
    _torch("foreach", ("sgd",), _FOREACH, _torch_sgd),
    _torch("loop", ("sgd",), _LOOP, _torch_sgd),
    Peer(
        "optimi",
        ("lion",),
        "optimi",
        "torch-optimi",
        lambda m, p, r: m.Lion(p, lr=r.lr, betas=r.betas, weight_decay=r.weight_decay),
    ),
    Peer(
        "lion-pytorch",
        ("lion",),
        "lion_pytorch",
        "lion-pytorch",
        lambda m, p, r: m.Lion(p, lr=r.lr, betas=r.betas, weight_decay=r.weight_decay),
    ),
    Peer(
        "pytorch_optimizer",
        ("lion",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        lambda m, p, r: m.Lion(p, lr=r.lr, betas=r.betas, weight_decay=r.weight_decay),
    ),
    Peer(
        "timm",
        ("lion",),
        "timm.optim",
        "timm",
        lambda m, p, r: m.Lion(p, lr=r.lr, betas=r.betas, weight_decay=r.weight_decay),
    ),
    Peer(
        "pytorch_optimizer",
        ("lamb",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        lambda m, p, r: m.Lamb(
            p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay, weight_decouple=False
        ),
    ),
    Peer(
        "timm",
        ("lamb",),
        "timm.optim",
        "timm",
        lambda m, p, r: m.Lamb(p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay, max_grad_norm=None),
    ),
    Peer(
        "schedulefree",
        ("schedule-free",),
        "schedulefree",
        "schedulefree",
        lambda m, p, r: m.AdamWScheduleFree(p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay),
    ),
    Peer(
        "pytorch_optimizer",
        ("schedule-free",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        lambda m, p, r: m.ScheduleFreeAdamW(p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay),
    ),
    Peer(
        "HeavyBall",
        ("schedule-free",),
        "heavyball",
        "heavyball",
        # Without consume_grad=False it drops the gradients, which the others still need.
        lambda m, p, r: m.SFAdamW(
            p, lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay, consume_grad=False
        ),
    ),
    Peer(
        "torch",
        ("muon",),
        "torch",
        "torch",
        lambda m, p, r: m.optim.Muon(p, lr=r.lr, weight_decay=r.weight_decay, momentum=r.momentum),
    ),
    Peer(
        "pytorch_optimizer",
        ("muon",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        lambda m, p, r: m.Muon(
            [{"params": p, "use_muon": True}], lr=r.lr, weight_decay=r.weight_decay, momentum=r.momentum
        ),
    ),
    Peer(
        "timm",
        ("muon",),
        "timm.optim",
        "timm",
        lambda m, p, r: m.Muon(
            p, lr=r.lr, weight_decay=r.weight_decay, momentum=r.momentum, nesterov=True, adjust_lr_fn="original"
        ),
    ),
)


def peers_of(subject: Subject) -> tuple[Peer, ...]:
    """Everyone else who has this rule."""
    return tuple(peer for peer in PEERS if subject.name in peer.subjects)


def entrants(subject: Subject, device: torch.device) -> tuple[dict[str, Build], dict[str, str]]:
    """Who builds an optimizer for this subject, by name, stepwell first; and who cannot, with the reason."""
    # On a CPU we insist on the fused engine, so that no fallback is measured in its name.
    insist = device.type == "cpu" and subject.rule.acts_on != "matrices"
    rule = subject.rule
    found: dict[str, Build] = {OURS: lambda p: stepwell.Optimizer(p, rule, engine="fused" if insist else "auto")}
    missing: dict[str, str] = {}
    for peer in peers_of(subject):
        if problem := peer.problem():
            missing[peer.name] = problem
        else:
            found[peer.name] = functools.partial(peer.build, rule=rule)
    return found, missing
