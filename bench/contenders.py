"""Who is measured: stepwell, and each peer that is installed. A peer is one entry in a table."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import stepwell
from bench.subjects import Subject
from stepwell.engines.choice import EngineName
from stepwell.rules import Rule

OURS = "stepwell"

# From parameters to an optimizer.
Build = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Peer:
    """One implementation of a rule.

    Args:
        name: how the tables call it.
        subjects: the names of the subjects that it takes part in.
        package: what pip installs.
        module: what is imported, once it is needed.
        kind: the class in it.
        takes: the hyper-parameters that it takes over from our rule.
        options: other arguments, as (name, value).
        group: entries of the parameter group, as (name, value).
    """

    name: str
    subjects: tuple[str, ...]
    package: str
    module: str
    kind: str
    takes: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    group: tuple[tuple[str, Any], ...] = ()

    def problem(self) -> str:
        """Why it cannot take part; empty where it can."""
        if importlib.util.find_spec(self.module.partition(".")[0]) is None:
            return "not installed"
        try:
            importlib.import_module(self.module)
        except Exception as error:
            return f"cannot be imported: {first_line(error)}"
        return ""

    def version(self) -> str:
        """Package and version."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def build(self, parameters: list[Any], rule: Rule) -> Any:
        """The optimizer of these parameters with the rule's hyper-parameters, ready to train."""
        kind = getattr(importlib.import_module(self.module), self.kind)
        taken = {name: getattr(rule, name) for name in self.takes}
        optimizer = kind([{"params": parameters, **dict(self.group)}], **taken, **dict(self.options))
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer


_ADAMW = ("lr", "betas", "eps", "weight_decay")
_SGD = ("lr", "momentum", "weight_decay")
_LION = ("lr", "betas", "weight_decay")
_RMSPROP = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
_ADAGRAD = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
_ADAFACTOR = ("lr", "eps", "weight_decay")  # its threshold and its exponent are ours by default
_ADADELTA = ("lr", "rho", "eps", "weight_decay")
_ASGD = ("lr", "lambd", "alpha", "t0", "weight_decay")
_LARS = ("lr", "momentum", "weight_decay", "trust_coefficient", "nesterov")
_SOAP = (*_ADAMW, "precondition_frequency", "correct_bias")
_FUSED, _FOREACH, _LOOP = (("fused", True),), (("foreach", True),), (("foreach", False), ("fused", False))
_PRECISIONS = ("adamw", "adamw-bf16", "adamw-stochastic", "adamw-8bit", "adamw-clipped")

PEERS = (
    Peer("torch fused", _PRECISIONS, "torch", "torch.optim", "AdamW", _ADAMW, _FUSED),
    Peer("torch foreach", _PRECISIONS, "torch", "torch.optim", "AdamW", _ADAMW, _FOREACH),
    Peer("torchao", ("adamw-8bit",), "torchao", "torchao.optim", "AdamW8bit", _ADAMW),
    Peer("bitsandbytes", ("adamw-8bit",), "bitsandbytes", "bitsandbytes.optim", "AdamW8bit", _ADAMW),
    Peer("torch loop", ("adamw",), "torch", "torch.optim", "AdamW", _ADAMW, _LOOP),
    Peer("optimi", ("adamw",), "torch-optimi", "optimi", "AdamW", _ADAMW),
    Peer("torch fused", ("sgd",), "torch", "torch.optim", "SGD", _SGD, _FUSED),
    Peer("torch foreach", ("sgd",), "torch", "torch.optim", "SGD", _SGD, _FOREACH),
    Peer("torch loop", ("sgd",), "torch", "torch.optim", "SGD", _SGD, _LOOP),
    Peer("optimi", ("lion",), "torch-optimi", "optimi", "Lion", _LION),
    Peer("lion-pytorch", ("lion",), "lion-pytorch", "lion_pytorch", "Lion", _LION),
    Peer("pytorch_optimizer", ("lion",), "pytorch_optimizer", "pytorch_optimizer", "Lion", _LION),
    Peer("timm", ("lion",), "timm", "timm.optim", "Lion", _LION),
    Peer(
        "pytorch_optimizer",
        ("lamb",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        "Lamb",
        _ADAMW,
        (("weight_decouple", False),),  # decay inside the trust ratio, as in the paper
    ),
    Peer("timm", ("lamb",), "timm", "timm.optim", "Lamb", _ADAMW, (("max_grad_norm", None),)),
    Peer("schedulefree", ("schedule-free",), "schedulefree", "schedulefree", "AdamWScheduleFree", _ADAMW),
    Peer(
        "pytorch_optimizer",
        ("schedule-free",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        "ScheduleFreeAdamW",
        _ADAMW,
    ),
    Peer(
        "HeavyBall",
        ("schedule-free",),
        "heavyball",
        "heavyball",
        "SFAdamW",
        _ADAMW,
        (("consume_grad", False),),  # else it drops the gradients, which the others still need
    ),
    Peer("torch fused", ("adam",), "torch", "torch.optim", "Adam", _ADAMW, _FUSED),
    Peer("torch foreach", ("adam",), "torch", "torch.optim", "Adam", _ADAMW, _FOREACH),
    Peer("torch foreach", ("adadelta",), "torch", "torch.optim", "Adadelta", _ADADELTA, _FOREACH),
    Peer("torch foreach", ("adamax",), "torch", "torch.optim", "Adamax", _ADAMW, _FOREACH),
    Peer("torch foreach", ("radam",), "torch", "torch.optim", "RAdam", _ADAMW, _FOREACH),
    Peer("torch foreach", ("rprop",), "torch", "torch.optim", "Rprop", ("lr", "etas", "step_sizes"), _FOREACH),
    Peer("torch foreach", ("asgd",), "torch", "torch.optim", "ASGD", _ASGD, _FOREACH),
    Peer("torch foreach", ("rmsprop",), "torch", "torch.optim", "RMSprop", _RMSPROP, _FOREACH),
    Peer("torch foreach", ("nadam",), "torch", "torch.optim", "NAdam", (*_ADAMW, "momentum_decay"), _FOREACH),
    Peer("torch fused", ("adagrad",), "torch", "torch.optim", "Adagrad", _ADAGRAD, _FUSED),
    Peer("torch foreach", ("adagrad",), "torch", "torch.optim", "Adagrad", _ADAGRAD, _FOREACH),
    Peer("torch foreach", ("adafactor",), "torch", "torch.optim", "Adafactor", _ADAFACTOR, _FOREACH),
    Peer("torch loop", ("adafactor",), "torch", "torch.optim", "Adafactor", _ADAFACTOR, (("foreach", False),)),
    Peer("pytorch_optimizer", ("lars",), "pytorch_optimizer", "pytorch_optimizer", "LARS", _LARS),
    Peer("pytorch_optimizer", ("adabelief",), "pytorch_optimizer", "pytorch_optimizer", "AdaBelief", _ADAMW),
    Peer("pytorch_optimizer", ("adan",), "pytorch_optimizer", "pytorch_optimizer", "Adan", _ADAMW),
    Peer(
        "pytorch_optimizer",
        ("ademamix",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        "AdEMAMix",
        (*_ADAMW, "alpha"),
        (("weight_decouple", True),),
    ),
    Peer("pytorch_optimizer", ("soap",), "pytorch_optimizer", "pytorch_optimizer", "SOAP", _SOAP),
    Peer("torch", ("muon",), "torch", "torch.optim", "Muon", _SGD),
    Peer(
        "pytorch_optimizer",
        ("muon",),
        "pytorch_optimizer",
        "pytorch_optimizer",
        "Muon",
        _SGD,
        group=(("use_muon", True),),
    ),
    Peer(
        "timm",
        ("muon",),
        "timm",
        "timm.optim",
        "Muon",
        _SGD,
        (("nesterov", True), ("ns_coefficients", "original"), ("adjust_lr_fn", "original")),
    ),
)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def peers_of(subject: Subject) -> tuple[Peer, ...]:
    """Everyone else who has this rule."""
    return tuple(peer for peer in PEERS if subject.name in peer.subjects)


def _ours(subject: Subject, parameters: list[Any], engine: EngineName, *, observed: bool) -> stepwell.Optimizer:
    options: dict[str, Any] = dict(subject.storage)
    optimizer = stepwell.Optimizer(parameters, subject.rule, engine=engine, clip_norm=subject.clip_norm, **options)
    optimizer.observe(observed)
    return optimizer


class _Clipping:
    """A peer's optimizer, and what its users call before each step."""

    def __init__(self, peer: Peer, subject: Subject, parameters: list[Any]) -> None:
        self._optimizer = peer.build(parameters, subject.rule)
        self._parameters, self._limit = parameters, subject.clip_norm or 0.0

    def step(self) -> None:
        """Clip the gradients in place, and step."""
        torch.nn.utils.clip_grad_norm_(self._parameters, self._limit, foreach=True)
        self._optimizer.step()


def entrants(subject: Subject, device: torch.device) -> tuple[dict[str, Build], dict[str, str]]:
    """Who builds an optimizer for this subject, by name, stepwell first; and who cannot, with the reason."""
    # We insist on the fused engine, so that no fallback is measured in its name.
    insist = device.type in ("cpu", "cuda") and subject.rule.acts_on != "matrices"
    ours = functools.partial(_ours, subject, engine="fused" if insist else "auto")
    found: dict[str, Build] = {OURS: functools.partial(ours, observed=subject.observed)}
    if subject.observed:
        found["without it"] = functools.partial(ours, observed=False)
    missing: dict[str, str] = {}
    for peer in peers_of(subject):
        if problem := peer.problem():
            missing[peer.name] = problem
        elif subject.clip_norm is not None:
            found[peer.name] = functools.partial(_Clipping, peer, subject)
        else:
            found[peer.name] = functools.partial(peer.build, rule=subject.rule)
    return found, missing
