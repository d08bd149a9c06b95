"""The default task: a small byte-level GPT that learns the Python source of the interpreter it runs on.

Every Python installation carries about 11 MB of real text: the source of its standard library. It needs no download
and no licence question, and it is text that a reader of the report knows. Files, not passages, are held out for
validation, so no sentence of the validation text was ever seen in training.
"""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.compare.task import Task, TaskError, seed_of

CONTEXT = 128
SEQUENCES = 8  # a batch is 8 × 128 = 1,024 bytes
VALIDATION_SEQUENCES = 64
LEAST_BYTES = 1_000_000
# Tests are left out: some installations ship them and some do not, and they would be two thirds of the text.
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class ByteGPT(nn.Module):
    """A pre-norm transformer decoder over bytes (Radford et al. 2019) with rotary positions (Su et al. 2021).

    The initialisation is width-aware, because it decides how good the baseline can be. Each matrix, the head among
    them, has standard deviation 1/√fan_in, so that activations keep their size at any width; the embedding has 1, so
    that the residual stream starts at the size that every later layer is written for; the two matrices of a block that
    write into the stream are divided by √(2·layers), so that it does not grow with depth (Radford et al. 2019). With an
    embedding of 0.02 and a head of zeros instead, AdamW at the best of four rates ended 0.5 nats higher.

    Args:
        width: size of the residual stream.
        layers: number of blocks; each has 12·width² weights.
        heads: attention heads; must divide `width` into even parts.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, width: int = 128, layers: int = 5, heads: int = 4, context: int = CONTEXT) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(self.make_block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        cosine, sine = rotary_angles(width // heads, context)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self._initialise(layers)

    def make_block(self, width: int, heads: int) -> Block:
        """One block of the stack; a variation of the model makes another kind."""
        return Block(width, heads)

    def _initialise(self, layers: int) -> None:
        nn.init.normal_(self.embedding.weight, std=1.0)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                depth = math.sqrt(2 * layers) if name.endswith(("mix", "contract")) else 1.0
                nn.init.normal_(module.weight, std=1 / (math.sqrt(module.in_features) * depth))

    def forward(self, text: Tensor) -> Tensor:
        """Logits (batch, time, 256) of the byte that follows each byte of `text` (batch, time)."""
        time = text.shape[1]
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x, self.cosine[:time], self.sine[:time])
        return torch.as_tensor(self.head(self.norm(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width)
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.contract = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        y = self.attention_norm(x)
        query = rotate(self._split(self.query(y)), cosine, sine)
        key = rotate(self._split(self.key(y)), cosine, sine)
        attended = functional.scaled_dot_product_attention(query, key, self._split(self.value(y)), is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.mlp_norm(x))

    def feed_forward(self, x: Tensor) -> Tensor:
        """The part of a block that treats every time alike, (batch, time, width) → (batch, time, width)."""
        return torch.as_tensor(self.contract(functional.gelu(self.expand(x))))

    def _split(self, x: Tensor) -> Tensor:
        """(batch, time, width) → (batch, heads, time, width / heads)."""
        batch, time, width = x.shape
        return x.view(batch, time, self.heads, width // self.heads).transpose(1, 2)


def rotary_angles(width: int, context: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of time · 10000^(−2i/width), each (context, width / 2)."""
    frequency = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angle = torch.outer(torch.arange(context), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the pairs (x[i], x[i + width/2]) of each head by the angle of their time."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)


def task(seed: int) -> Task:
    """The default task of `stepwell compare`; `seed` draws the weights and the batches."""
    train, held_out = read_corpus(Path(sysconfig.get_paths()["stdlib"]))
    starts = torch.linspace(0, len(held_out) - CONTEXT - 1, VALIDATION_SEQUENCES).long()
    validation = crops(held_out, starts)

    def batch(step: int) -> Tensor:
        # A generator of its own for every step: the batch depends on the seed and the step and on nothing else.
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        return crops(train, torch.randint(len(train) - CONTEXT, (SEQUENCES,), generator=generator))

    def loss(model: nn.Module, text: Tensor) -> Tensor:
        return functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    model = ByteGPT()
    count = sum(parameter.numel() for parameter in model.parameters())
    return Task(
        name="bytegpt",
        about=(
            f"A byte-level GPT with {count:,} parameters learns the Python source of its interpreter's standard "
            f"library: {len(train) / 1e6:.1f} MB of text, without tests, in batches of {SEQUENCES} × {CONTEXT} bytes. "
            f"Validation: {VALIDATION_SEQUENCES} passages of {CONTEXT} bytes from files held out whole. "
            "Loss is in nats a byte."
        ),
        model=ByteGPT,
        batch=batch,
        loss=loss,
        validate=lambda trained: float(loss(trained, validation)),
        steps=300,
    )


def crops(text: Tensor, starts: Tensor, context: int = CONTEXT) -> Tensor:
    """Passages of context + 1 bytes (inputs and the byte after each), shape (len(starts), context + 1)."""
    return text[starts[:, None] + torch.arange(context + 1)].long()


def read_corpus(folder: Path, among: Callable[[str], bool] = lambda _: True) -> tuple[Tensor, Tensor]:
    """The training and validation bytes of the Python files under `folder`.

    Args:
        folder: where they are.
        among: whether a file, by its name relative to the folder, is one of them.

    Raises:
        TaskError: if the folder or a file cannot be read, or holds too little text to learn from.
    """
    kept: dict[bool, list[bytes]] = {True: [], False: []}
    for name, path in filter(lambda named: among(named[0]), python_files(folder)):
        try:
            kept[is_held_out(name)].append(path.read_bytes())
        except OSError as error:
            raise TaskError(f"task 'bytegpt' cannot read {path}: {error.strerror}") from error
    held_out, train = (b"\n".join(kept[part]) for part in (True, False))
    if min(len(train), 20 * len(held_out)) < LEAST_BYTES:
        raise TaskError(
            f"task 'bytegpt' needs at least {LEAST_BYTES:,} bytes of Python source in {folder}, "
            f"found {len(train) + len(held_out):,}; give a task of your own with --task module:function"
        )
    return as_tensor(train), as_tensor(held_out)


def python_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each Python file, in the same order on every machine."""
    named = ((path.relative_to(folder), path) for path in folder.rglob("*.py"))
    yield from sorted((name.as_posix(), path) for name, path in named if LEFT_OUT.isdisjoint(name.parts))


def is_held_out(name: str) -> bool:
    """Whether a file serves validation: about one in twenty, by its name alone."""
    return hashlib.sha256(name.encode()).digest()[0] < 256 // 20


def as_tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
