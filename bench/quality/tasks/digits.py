"""Tasks on images: the handwritten digits that scikit-learn carries (Alpaydin & Kaynak 1998), 1,797 of 8 × 8 pixels.

One image in four is held out for validation; the others are seen shifted by up to one pixel each way, drawn anew each
time, so that there is something to learn for longer than a few passes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.compare.task import Task, seed_of

IMAGES = 32  # in a batch
SIDE, PATCH, CLASSES = 8, 2, 10

Batch = tuple[Tensor, Tensor]


class ViT(nn.Module):
    """A pre-norm transformer over the 16 patches of 2 × 2 pixels (Dosovitskiy et al. 2020, arXiv:2010.11929), with
    biases, layer norms, and the mean over the patches before the head.

    Matrices start with a standard deviation of 1/√fan_in, those that write into the stream divided by √(2·layers).
    """

    def __init__(self, *, width: int = 48, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Linear(PATCH * PATCH, width)
        self.positions = nn.Embedding((SIDE // PATCH) ** 2, width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                depth = math.sqrt(2 * layers) if name.endswith(("mix", "contract")) else 1.0
                nn.init.normal_(module.weight, std=1 / (math.sqrt(module.in_features) * depth))
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 8, 8)."""
        patches = functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
        x = self.patches(patches) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.head(self.norm(x).mean(dim=1)))


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_norm(x)
        query, key, value = (
            part(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        return torch.as_tensor(x + self.contract(functional.gelu(self.expand(self.mlp_norm(x)))))


class ResNet(nn.Module):
    """A residual network with batch norm (He et al. 2015, arXiv:1512.03385): three stages of one block each, of 8, 16
    and 32 channels, the later two at half the resolution of the stage before."""

    def __init__(self, *, channels: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        before = (channels[0], *channels)
        self.blocks = nn.ModuleList(
            ResidualBlock(entering, leaving, 1 if index == 0 else 2)
            for index, (entering, leaving) in enumerate(zip(before, channels, strict=False))
        )
        self.head = nn.Linear(channels[-1], CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 8, 8)."""
        x = functional.relu(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.head(x.mean(dim=(2, 3))))


class ResidualBlock(nn.Module):
    """Two convolutions of 3 × 3 beside a path that leaves x as it is, or projects it."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(leaving)
        self.second = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(leaving)
        same = entering == leaving and stride == 1
        self.project = None if same else nn.Conv2d(entering, leaving, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return functional.relu(y + (x if self.project is None else self.project(x)))


def vit(seed: int) -> Task:
    """A small vision transformer."""
    return image_task("vit", ViT, seed)


def resnet(seed: int) -> Task:
    """A small residual network with batch norm."""
    return image_task("resnet", ResNet, seed)


def image_task(name: str, model: Callable[[], nn.Module], seed: int) -> Task:
    """A model (images → logits) that learns the digits, 32 a batch. Loss is in nats an image."""
    (train, names), (held_out, true_names) = digits()

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        rows = torch.randint(len(train), (IMAGES,), generator=generator)
        down, right = torch.randint(3, (2, IMAGES), generator=generator)
        return shifted(train[rows], down, right), names[rows]

    def loss(trained: nn.Module, given: Batch) -> Tensor:
        images, labels = given
        return functional.cross_entropy(trained(images), labels)

    def validate(trained: nn.Module) -> float:
        _settle_batch_norms(trained, (batch(step)[0] for step in range(8)))
        return float(loss(trained, (held_out, true_names)))

    return Task(name=name, model=model, batch=batch, loss=loss, validate=validate)


@functools.cache
def digits() -> tuple[Batch, Batch]:
    """Images (count, 1, 8, 8) from −1 to 1 and their digits: for training, and one in four for validation."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(data.target).long()
    held_out = torch.arange(len(labels)) % 4 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def shifted(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image moved by down − 1 and right − 1 pixels (each 0, 1 or 2), with paper where nothing was."""
    count = len(images)
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0).squeeze(1)
    span = torch.arange(SIDE)
    rows, columns = (2 - down)[:, None] + span, (2 - right)[:, None] + span
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def _settle_batch_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Work out the statistics of batch norms anew, from training batches, at the weights that are validated.

    Running statistics belong to the weights that were trained on, which are not those of an average (Schedule-Free).
    So that no rule is measured otherwise than another, this is done for all.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.eval()
