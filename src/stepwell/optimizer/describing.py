"""What an optimizer does to which parameters, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.codecs import Storage
from stepwell.text.tabular import WIDTH, some, text_table

EXAMPLES = 2
HEADINGS = ("group", "rule", "tensors", "parameters", "lr", "decay")
LEFT_ALIGNED = 2


@dataclass(frozen=True)
class GroupRow:
    """One parameter group.

    Attributes:
        group: its name, or "group 0" and so on where it has none.
        rule: the rule that updates it; for an optimizer of another package, that optimizer's class.
        tensors: how many parameters it holds.
        parameters: how many numbers those hold.
        lr: its learning rate per step; None where it has none.
        weight_decay: its weight decay; None where it has none.
        storage: how its state and its weights are stored, where that is not as the parameters are.
        role: what its parameters are for, where known.
        why: why they are in this group, where known.
        names: the names of its parameters, where known.
        base_lr: the rate that a scheduler multiplies, where one has been made; most schedules reach it at their peak.
    """

    group: str
    rule: str
    tensors: int
    parameters: int
    lr: float | None
    weight_decay: float | None
    role: str = ""
    why: str = ""
    names: tuple[str, ...] = ()
    storage: str = ""
    base_lr: float | None = None


@dataclass(frozen=True)
class Count:
    """How many tensors, and how many numbers they hold."""

    tensors: int
    parameters: int

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Count:
        sizes = [tensor.numel() for tensor in tensors]
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class Description:
    """The groups of an optimizer. `str()` gives the table as plain text.

    Attributes:
        rows: one for each group.
        total: all groups together.
        frozen: what of the model is frozen and in no group, if a model was given.
        missing: what of the model is not frozen and yet in no group, if a model was given.
    """

    rows: tuple[GroupRow, ...]
    total: Count
    frozen: Count | None = None
    missing: Count | None = None

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = WIDTH) -> str:
        """The table, its last column wrapped to keep the lines within `width` (down to a column of 24 characters)."""
        lines: list[tuple[tuple[str, ...], str]] = []
        for row in self.rows:
            counts = (f"{row.tensors:,}", f"{row.parameters:,}")
            rates = (_rate(row), _number(row.weight_decay))
            lines.append(((row.group, row.rule, *counts, *rates), _reason(row)))
        lines.append(_sum("total", self.total, ""))
        if self.frozen and self.frozen.tensors:
            lines.append(_sum("frozen", self.frozen, "requires_grad=False: in no group, never changed"))
        if self.missing and self.missing.tensors:
            lines.append(_sum("missing", self.missing, "trainable, but in no group: never changed"))
        return text_table((HEADINGS, "why"), lines, width, left_aligned=LEFT_ALIGNED)


def describe(optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> Description:
    """What an optimizer does to which parameters; `print(stepwell.describe(optimizer))` shows the table.

    Args:
        optimizer: any torch optimizer; stepwell's also say rule, role and reason of each group. The values are those
            that the groups hold now; a rate that is scheduled stands beside its base, as "0 of 0.001".
        model: if given, what of it is frozen, and what is trainable but in no group, is counted too.

    Raises:
        TypeError: if `optimizer` is no torch optimizer.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"describe takes a torch optimizer, got {type(optimizer).__name__}")
    groups = optimizer.param_groups
    rows = tuple(_row(index, group, type(optimizer).__name__) for index, group in enumerate(groups))
    held = {id(parameter) for group in groups for parameter in group["params"]}
    total = Count(sum(row.tensors for row in rows), sum(row.parameters for row in rows))
    if model is None:
        return Description(rows, total)
    outside = [parameter for parameter in model.parameters() if id(parameter) not in held]
    return Description(
        rows,
        total,
        frozen=Count.of(parameter for parameter in outside if not parameter.requires_grad),
        missing=Count.of(parameter for parameter in outside if parameter.requires_grad),
    )


def _row(index: int, group: Mapping[str, Any], optimizer: str) -> GroupRow:
    count = Count.of(group["params"])
    return GroupRow(
        group=group.get("name") or f"group {index}",
        rule=group.get("rule", optimizer),
        tensors=count.tensors,
        parameters=count.parameters,
        lr=_value(group.get("lr")),
        weight_decay=_value(group.get("weight_decay")),
        role=group.get("role") or "",
        why=group.get("why") or "",
        names=tuple(group.get("param_names") or ()),
        storage=_storage(group),
        base_lr=_value(group.get("initial_lr")),
    )


def _storage(group: Mapping[str, Any]) -> str:
    asked = Storage.of(group)
    state = f"state in {asked.state_dtype}" if asked.state_dtype else ""
    narrow = any(p.dtype.itemsize < 4 for p in group["params"])
    master = f"weights in 16 bits, master={asked.master!r}" if asked.master and narrow else ""
    return ", ".join(part for part in (state, master) if part)


def _value(value: Any) -> float | None:
    return None if value is None else float(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _rate(row: GroupRow) -> str:
    """The rate, and what it is a share of: in a warm-up it says little alone."""
    shown = _number(row.lr)
    return shown if row.base_lr in (None, row.lr) else f"{shown} of {_number(row.base_lr)}"


def _sum(title: str, count: Count, why: str) -> tuple[tuple[str, ...], str]:
    return (title, "", f"{count.tensors:,}", f"{count.parameters:,}", "", ""), why


def _reason(row: GroupRow) -> str:
    """Role and reason, and on lines of their own how it is stored and the first names."""
    why = ": ".join(part for part in (row.role, row.why) if part)
    return "\n".join(part for part in (why, row.storage, some(row.names, EXAMPLES)) if part)
