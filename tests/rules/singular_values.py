"""Matrices whose singular values are known, so that what a rule does to them is arithmetic on a few numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

JORDAN = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    values: list[float], coefficients: tuple[float, float, float] = JORDAN, steps: int = 5
) -> list[float]:
    """The iteration on singular values: X ← aX + bXXᵀX + c(XXᵀ)²X is σ ← aσ + bσ³ + cσ⁵ for each of them."""
    a, b, c = coefficients
    scaled = [value / math.hypot(*values) for value in values]
    for _ in range(steps):
        scaled = [a * s + b * s**3 + c * s**5 for s in scaled]
    return scaled


def diagonal(values: list[float], rows: int, cols: int) -> Tensor:
    """A (rows, cols) matrix with these values on its diagonal and zeros elsewhere."""
    matrix = torch.zeros(rows, cols, dtype=torch.float64)
    for index, value in enumerate(values):
        matrix[index, index] = value
    return matrix


def with_singular_values(values: Tensor, rows: int, cols: int, seed: int = 0) -> Tensor:
    """A (rows, cols) matrix in general position with these singular values, in float64."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(cols, cols, generator=generator, dtype=torch.float64))
    count = min(rows, cols)
    return left[:, :count] * values @ right[:count]


def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
