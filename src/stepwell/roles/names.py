"""The roles themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import nn

Role = Literal[
    "hidden matrix",
    "convolution",
    "embedding",
    "head",
    "norm",
    "bias",
    "scalar",
    "custom matrix",
    "other",
]

ROLES: tuple[Role, ...] = get_args(Role)

MATRIX_ROLES: frozenset[Role] = frozenset({"hidden matrix", "convolution", "embedding", "head", "custom matrix"})
"""The roles of weights with at least two dimensions."""

STRONGEST_FIRST: tuple[Role, ...] = (
    "embedding",
    "head",
    "convolution",
    "hidden matrix",
    "custom matrix",
    "norm",
    "bias",
    "scalar",
    "other",
)
"""Which role a tied parameter takes: that of the use that forbids most.

A matrix that is looked up in anywhere is an embedding, and never orthogonalised.
"""


@dataclass(frozen=True, eq=False)
class ParameterRole:
    """One parameter of a model and what it is for.

    Attributes:
        name: its first name, in the order of registration.
        parameter: the parameter itself.
        role: one of `ROLES`.
        why: what the role was read from, such as "weight of Linear".
        aliases: its other names, where it is tied.
        module_classes: the names of the classes, and of their bases, of the modules that own it.
        depth: 0 before the first block, 1 to n for the n blocks, n + 1 after the last (`stepwell.roles.depths`).
        split: the sizes of the layers that are stored in it as one, such as query, key and value, where it is known
            (`stepwell.roles.fused`). They add up to its size along `split_dim`.
        split_dim: the dimension along which they lie side by side: -2 for the rows of (out, in), -1 for the columns
            of (in, out).
    """

    name: str
    parameter: nn.Parameter = field(repr=False)
    role: Role
    why: str
    aliases: tuple[str, ...] = ()
    module_classes: frozenset[str] = frozenset()
    depth: int = 0
    split: tuple[int, ...] = ()
    split_dim: Literal[-2, -1] = -2

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, the first one first."""
        return (self.name, *self.aliases)

    def has_role(self, roles: Collection[Role]) -> bool:
        """Whether its role is one of these."""
        return self.role in roles
