"""Small models with the parts of large ones, for tests that lay recipes over models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, LENGTH = 11, 8, 5


class Block(nn.Module):
    """A norm and a perceptron on a residual branch."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.norm.bias)  # without it every input of `up` has mean 0, and its gradient a rank less
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Language(nn.Module):
    """An embedding, blocks and a head, which may be one tensor with the embedding."""

    def __init__(self, *, tied: bool = False, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def loss(self) -> Tensor:
        """Of guessing some tokens from themselves."""
        tokens = torch.arange(LENGTH).unsqueeze(0)
        return nn.functional.cross_entropy(self(tokens).flatten(0, 1), tokens.flatten())


class Vision(nn.Module):
    """Convolutions with batch norms, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.deeper = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        return self.head(self.deeper(x).relu().mean((2, 3)))

    def loss(self) -> Tensor:
        """Of telling noise from noise."""
        return nn.functional.cross_entropy(self(torch.randn(4, 3, 6, 6)), torch.arange(4))
