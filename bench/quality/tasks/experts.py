"""A mixture-of-experts GPT: every byte goes to two of four small feed-forward networks."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.quality.tasks.text import SMALL, WIDTH, text_task
from stepwell.compare.bytegpt import Block, ByteGPT
from stepwell.compare.task import Task

BALANCE = 0.01


class Experts(nn.Module):
    """Feed-forward networks of which each position takes the two that a router scores highest (Shazeer et al. 2017,
    arXiv:1701.06538), with the auxiliary loss that keeps them busy (Fedus et al. 2021, arXiv:2101.03961, eq. 4).

    All experts are worked out and the others multiplied with 0: at this size that is faster than to gather.

    Args:
        width: of the stream.
        hidden: of one expert.
        num_experts: how many there are.
    """

    balance: Tensor

    def __init__(self, width: int, hidden: int, num_experts: int = 4) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.router = nn.Linear(width, num_experts, bias=False)
        self.expand = nn.Parameter(torch.randn(num_experts, width, hidden) / math.sqrt(width))
        self.contract = nn.Parameter(torch.randn(num_experts, hidden, width) / math.sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(dim=-1)
        taken = scores.topk(2, dim=-1)
        gates = torch.zeros_like(scores).scatter(-1, taken.indices, taken.values)
        gates = gates / gates.sum(dim=-1, keepdim=True)
        used = functional.one_hot(scores.argmax(dim=-1), self.num_experts).to(scores.dtype).mean(dim=(0, 1))
        self.balance = self.num_experts * (used * scores.mean(dim=(0, 1))).sum()
        hidden = functional.gelu(torch.einsum("btw,ewh->beth", x, self.expand))
        return torch.einsum("beth,ehw,bte->btw", hidden, self.contract, gates)


class ExpertBlock(Block):
    """A block whose feed-forward part is a mixture of experts, each half as wide as the one that it stands for."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__(width, heads)
        del self.expand, self.contract
        self.experts = Experts(width, 2 * width)
        with torch.no_grad():
            self.experts.contract.div_(math.sqrt(2 * layers))  # as the matrices of ByteGPT that write into the stream

    def feed_forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.experts(x))


class ExpertsGPT(ByteGPT):
    """A byte-level GPT of such blocks."""

    def __init__(self, *, width: int, layers: int, heads: int, context: int) -> None:
        self._layers = layers
        super().__init__(width=width, layers=layers, heads=heads, context=context)

    def make_block(self, width: int, heads: int) -> Block:
        return ExpertBlock(width, heads, self._layers)


def experts(seed: int) -> Task:
    """A mixture-of-experts GPT on the source of the standard library."""
    model = functools.partial(ExpertsGPT, width=WIDTH, **SMALL)
    return text_task("experts", model, seed, extra_loss=_balance)


def _balance(model: nn.Module) -> Tensor:
    return BALANCE * torch.stack([each.balance for each in model.modules() if isinstance(each, Experts)]).mean()
