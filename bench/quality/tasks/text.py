"""Tasks on text: the Python source of the standard library, byte by byte. Loss is in nats a byte."""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.compare.bytegpt import ByteGPT, crops, read_corpus
from stepwell.compare.task import Task, seed_of

CONTEXT, SEQUENCES, VALIDATION_SEQUENCES = 64, 8, 64
SMALL = {"layers": 2, "heads": 4, "context": CONTEXT}
WIDTH = 64
# What the fine-tuning task goes over to, and the model of before has not seen: the net, and what runs side by side.
NET = (
    *("asyncio", "concurrent", "email", "ftplib.py", "html", "http", "imaplib.py", "json", "mailbox.py"),
    *("multiprocessing", "poplib.py", "smtplib.py", "socket.py", "socketserver.py", "ssl.py", "urllib", "wsgiref"),
    *("xml", "xmlrpc"),
)


class ByteGRU(nn.Module):
    """A gated recurrent network over bytes (Cho et al. 2014, arXiv:1406.1078), one layer of `width` units."""

    def __init__(self, *, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256)
        for name, parameter in self.named_parameters():
            if name.startswith(("recurrent.weight", "head.weight")):
                nn.init.normal_(parameter, std=width**-0.5)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (batch, time, 256) of the byte that follows each byte of `text` (batch, time)."""
        states, _ = self.recurrent(self.embedding(text))
        return torch.as_tensor(self.head(self.norm(states)))


def gpt(seed: int) -> Task:
    """A small byte-level GPT."""
    return text_task("gpt", functools.partial(ByteGPT, width=WIDTH, **SMALL), seed)


def gpt_wide(seed: int) -> Task:
    """The same, four times as wide."""
    return text_task("gpt-wide", functools.partial(ByteGPT, width=4 * WIDTH, **SMALL), seed)


def recurrent(seed: int) -> Task:
    """A gated recurrent network on the same text."""
    return text_task("recurrent", ByteGRU, seed)


def adapting(seed: int) -> Task:
    """Fine-tuning: a model of all the other source learns the packages for the net."""
    return text_task("adapting", pretrained, seed, among=is_net)


def text_task(
    name: str,
    model: Callable[[], nn.Module],
    seed: int,
    *,
    among: Callable[[str], bool] = lambda _: True,
    extra_loss: Callable[[nn.Module], Tensor | float] = lambda _: 0.0,
) -> Task:
    """A model that learns to tell the next byte, from crops of 64 bytes, 8 a batch.

    Args:
        name: of the task.
        model: makes the model: bytes (batch, time) → logits (batch, time, 256).
        seed: of the batches.
        among: which files the text is made of.
        extra_loss: what is added to the training loss.
    """
    train, held_out = corpus(among)
    starts = torch.linspace(0, len(held_out) - CONTEXT - 1, VALIDATION_SEQUENCES).long()
    validation = crops(held_out, starts, CONTEXT)

    def batch(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        return crops(train, torch.randint(len(train) - CONTEXT, (SEQUENCES,), generator=generator), CONTEXT)

    def cross_entropy(trained: nn.Module, text: Tensor) -> Tensor:
        return functional.cross_entropy(trained(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    return Task(
        name=name,
        model=model,
        batch=batch,
        loss=lambda trained, text: cross_entropy(trained, text) + extra_loss(trained),
        validate=lambda trained: float(cross_entropy(trained, validation)),
    )


@functools.cache
def corpus(among: Callable[[str], bool]) -> tuple[Tensor, Tensor]:
    """Training and validation bytes of the standard library's files that `among` takes."""
    return read_corpus(Path(sysconfig.get_paths()["stdlib"]), among)


def is_net(name: str) -> bool:
    return name.partition("/")[0] in NET


def is_other(name: str) -> bool:
    return not is_net(name)


def pretrained() -> nn.Module:
    """A GPT that knows the source outside the packages for the net, with a generation of its own for each call."""
    model = ByteGPT(width=WIDTH, **SMALL)
    model.load_state_dict(pretrained_weights())
    return model


@functools.cache
def pretrained_weights(steps: int = 600) -> dict[str, Tensor]:
    """Its weights: AdamW at the settings that `stepwell compare` found for a model of that kind."""
    from stepwell.compare.contestants import CONTESTANTS
    from stepwell.compare.sweep import committed_sweep
    from stepwell.compare.training import Run

    best = committed_sweep().best("adamw")
    if best is None:
        raise RuntimeError("the committed sweep has no try of AdamW")
    make = functools.partial(ByteGPT, width=WIDTH, **SMALL)
    state = torch.get_rng_state()
    run = Run(
        text_task("pretraining", make, 0, among=is_other), CONTESTANTS["adamw"], best.settings, steps=steps, seed=0
    )
    run.advance(steps)
    torch.set_rng_state(state)
    return run.model.state_dict()
