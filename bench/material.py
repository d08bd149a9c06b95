"""Weights and gradients, which all contenders share; each has a state of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.shapes import Shapes


class Material:
    """Parameters with gradients of a trained network's size: neither zero, nor so small that they underflow.

    Gradients stay the same from step to step. `restore` puts back what a contender has overwritten.
    """

    def __init__(self, shapes: Shapes, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self.shapes = shapes
        generator = torch.Generator(device).manual_seed(seed)

        def numbers(scale: float) -> list[Tensor]:
            drawn = (torch.randn(shape, generator=generator, device=device) for shape in shapes.shapes)
            return [tensor.mul_(scale).to(dtype=dtype) for tensor in drawn]

        self._weights, self._gradients = numbers(0.02), numbers(0.01)
        self.parameters = [torch.nn.Parameter(w.clone()) for w in self._weights]
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient.clone()

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients, in the order of the parameters."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def overwritten(self) -> bool:
        """Whether someone has changed the gradients."""
        return not all(map(torch.equal, self.gradients, self._gradients))

    @torch.no_grad()
    def restore(self) -> None:
        """Put back weights and gradients as they were at first."""
        torch._foreach_copy_(list[Tensor](self.parameters), self._weights)
        torch._foreach_copy_(self.gradients, self._gradients)


class Materials:
    """The same tensors in several dtypes, each made once."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self._shapes = shapes
        self._device = device
        self._made: dict[torch.dtype, Material] = {}

    def of(self, dtype: torch.dtype) -> Material:
        """The tensors in this dtype, as they were at first."""
        if dtype in self._made:
            self._made[dtype].restore()
        else:
            self._made[dtype] = Material(self._shapes, dtype, self._device)
        return self._made[dtype]
