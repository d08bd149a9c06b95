"""The tensors that are stepped over."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

Shape = tuple[int, ...]

_WIDTH, _LAYERS, _VOCABULARY, _CONTEXT = 768, 12, 50_257, 1_024


@dataclass(frozen=True)
class Shapes:
    """A list of tensors by shape, what to call it, and the devices on which it is measured by default."""

    name: str
    title: str
    shapes: tuple[Shape, ...]
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def parameters(self) -> int:
        """How many numbers they hold."""
        return sum(map(math.prod, self.shapes))


def _hidden(width: int) -> tuple[Shape, ...]:
    """The matrices of one layer of a GPT, as (inputs, outputs): attention in and out, feed-forward in and out."""
    return (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)


def _gpt(width: int, layers: int, context: int) -> tuple[Shape, ...]:
    """The tensors of a GPT: embeddings, layers, and a last norm."""
    hidden, norm = _hidden(width), ((width,), (width,))
    layer = (
        *norm,
        *(shape for matrix in hidden[:2] for shape in (matrix, matrix[1:])),
        *norm,
        *(shape for matrix in hidden[2:] for shape in (matrix, matrix[1:])),
    )
    return ((_VOCABULARY, width), (context, width), *layer * layers, *norm)


_HIDDEN = _hidden(_WIDTH)

GPT2 = Shapes("gpt2", "GPT-2 small", _gpt(_WIDTH, _LAYERS, _CONTEXT))
# GPT-3 XL of Brown et al. 2020 (arXiv:2005.14165), Table 2.1.
LARGE = Shapes("large", "a GPT of 1.3 billion", _gpt(2048, 24, 2048), ("cuda",))
SMALL = Shapes("small", "300 tensors of 768", ((768,),) * 300)
THOUSAND = Shapes("thousand", "1,000 tensors of 768", ((768,),) * 1000, ("cuda",))
SQUARE = Shapes("square", "one matrix of 4096 × 4096", ((4096, 4096),))

# Matrices for the rules of matrices, the most work first. Peers of Muon multiply in bfloat16; where that is slow, fewer
# and smaller ones have to do for it.
HIDDEN = (
    Shapes(
        "hidden",
        "8 matrices of 768 × 768 and 4 of 768 × 3072",
        ((_WIDTH, _WIDTH),) * 8 + ((_WIDTH, 4 * _WIDTH),) * 4,
    ),
    Shapes("hidden", "the 4 hidden matrices of one layer of GPT-2 small", _HIDDEN),
    Shapes("hidden", "4 matrices of 768 × 768", ((768, 768),) * 4),
    Shapes("hidden", "4 matrices of 512 × 512", ((512, 512),) * 4),
    Shapes("hidden", "4 matrices of 256 × 256", ((256, 256),) * 4),
    Shapes("hidden", "2 matrices of 256 × 256", ((256, 256),) * 2),
)
SHAPES = {shapes.name: shapes for shapes in (GPT2, LARGE, SMALL, THOUSAND, SQUARE, HIDDEN[0])}


def newton_schulz_work(shapes: Shapes, steps: int = 5) -> float:
    """Floating-point operations of the direct Newton–Schulz iteration: XXᵀ, its square, and the product with X."""
    sides = [sorted(shape) for shape in shapes.shapes]
    return sum(steps * (4.0 * rows * rows * cols + 2.0 * rows**3) for rows, cols in sides)


def hidden_matrices(seconds: float, rate: float) -> tuple[Shapes, str]:
    """Matrices for Muon, a step over which takes at most so long at this rate; and a note, if they are not all of them.

    Args:
        seconds: the most that a step may take.
        rate: floating-point operations a second in bfloat16 products, as `bfloat16_rate` finds it.
    """
    whole = HIDDEN[0]
    chosen = next((s for s in HIDDEN if newton_schulz_work(s) <= rate * seconds), HIDDEN[-1])
    if chosen is whole:
        return chosen, ""
    return chosen, (
        f"{chosen.title} stand for {whole.title}: bfloat16 products run at {rate / 1e9:.3g} GFLOP/s here, so that a "
        f"step over all of them would take a peer {newton_schulz_work(whole) / rate:.0f} s"
    )


def bfloat16_rate(device: torch.device) -> float:
    """Floating-point operations a second in a bfloat16 matrix product, measured: the best of four, of which the first
    may have to make a kernel."""
    size = 256
    while True:
        matrix = torch.ones(size, size, dtype=torch.bfloat16, device=device)
        seconds = math.inf
        for _ in range(4):
            start = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # reading a number waits for the device
            seconds = min(seconds, time.perf_counter() - start)
        if seconds > 5e-3 or size >= 4096:
            return 2 * size**3 / seconds
        size *= 2
