"""What optimizers there are: read from the rules themselves, their docstrings and their slots."""

from __future__ import annotations

import inspect
import math
import numbers
from dataclasses import MISSING, dataclass, fields
from typing import get_args

from stepwell.rules.registry import rule_classes
from stepwell.rules.rule import ActsOn, Rule, Shape
from stepwell.text.naming import nearest
from stepwell.text.numbers import as_float
from stepwell.text.values import shown

# A feed-forward matrix of GPT-2 small: what state a parameter costs is said of it.
TYPICAL: Shape = (768, 3072)


@dataclass(frozen=True)
class Entry:
    """One rule.

    Attributes:
        name: its class's name, in `stepwell` and in `stepwell.rules`.
        about: what it does, in one sentence.
        source: the paper, and where in it.
        formula: its equations, in lines.
        acts_on: "elements", "tensors" or "matrices".
        slots: the names of its state under its defaults.
        memory: numbers of state for each number of a 768 × 3072 parameter under its defaults, to three digits.
    """

    name: str
    about: str
    source: str
    formula: str
    acts_on: ActsOn
    slots: tuple[str, ...]
    memory: float


def list_optimizers(*, acts_on: str | None = None, memory: float | None = None) -> list[str]:
    """The names of all optimizers, in alphabetical order: `stepwell.optimizer_class` takes them.

    A rule of your own is among them once its class is defined, if all its hyper-parameters have defaults. So are the
    rules that other packages offer as entry points of the group `stepwell.rules`; one that cannot be loaded is left
    out, and that is logged once.

    Args:
        acts_on: only rules of "elements", of "tensors" (they reduce over a whole parameter) or of "matrices".
        memory: only rules with at most so many numbers of state for each number of a 768 × 3072 parameter, to three
            digits and under their defaults: 0 for SGD, 0.00163 for Adafactor, 1 for Lion and Adam-mini, 2 for Adam.

    Raises:
        ValueError: for another `acts_on`, or for a `memory` that is no number of at least 0.
    """
    return [entry.name for entry in entries(acts_on=acts_on, memory=memory)]


def entries(*, acts_on: str | None = None, memory: float | None = None) -> list[Entry]:
    """What there is to say of each optimizer that `list_optimizers` names."""
    if acts_on is not None and acts_on not in get_args(ActsOn):
        known = get_args(ActsOn)
        raise ValueError(
            f"acts_on must be one of {', '.join(map(repr, known))}, got {acts_on!r}{nearest(acts_on, known)}"
        )
    most = as_float(memory) if isinstance(memory, numbers.Real) else math.nan
    if memory is not None and not most >= 0:
        raise ValueError(f"memory must be a number of at least 0, got {shown(memory)}")
    return [
        entry
        for entry in map(_entry, filter(_has_defaults, rule_classes()))
        if acts_on in (None, entry.acts_on) and (memory is None or entry.memory <= most)
    ]


def state_numbers(rule: Rule, shape: Shape) -> int:
    """How many numbers of state the rule keeps for one parameter of this shape; a scalar is one."""
    fitted = rule.fit(shape)
    return sum(1 if slot.scalar else math.prod(fitted.slot_shape(slot, shape)) for slot in fitted.slot_list())


def _has_defaults(kind: type[Rule]) -> bool:
    return all(field.default is not MISSING for field in fields(kind))


def _entry(kind: type[Rule]) -> Entry:
    rule = kind()
    about, source = _first_sentence(kind)
    return Entry(
        name=kind.__name__,
        about=about,
        source=source,
        formula=_formula(kind),
        acts_on=rule.acts_on,
        slots=tuple(slot.name for slot in rule.fit(TYPICAL).slot_list() if not slot.scalar),
        memory=float(f"{state_numbers(rule, TYPICAL) / math.prod(TYPICAL):.3g}"),
    )


def _first_sentence(kind: type[Rule]) -> tuple[str, str]:
    """The docstring's first paragraph as (what stands around its first brackets, what stands in them)."""
    first = " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split()).removesuffix(".")
    start = first.find("(")
    depth = 0
    for end in range(max(start, 0), len(first)):
        depth += {"(": 1, ")": -1}.get(first[end], 0)
        if depth == 0 and start >= 0:
            return first[:start].rstrip() + first[end + 1 :], first[start + 1 : end]
    return first, ""


def _formula(kind: type[Rule]) -> str:
    """The indented lines of the docstring before its arguments, or those of the nearest ancestor that has some."""
    for ancestor in kind.__mro__:
        text = inspect.cleandoc(ancestor.__doc__ or "").partition("\nArgs:\n")[0]
        blocks = [block for block in text.split("\n\n") if block.startswith("    ")]
        if blocks:
            return inspect.cleandoc("\n" + "\n\n".join(blocks))
    return ""
