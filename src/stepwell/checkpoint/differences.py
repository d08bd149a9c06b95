"""How two things differ that should be one training: a checkpoint and what it is loaded into, or two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal["missing", "unexpected", "reshaped", "retyped", "changed", "left"]
_SHOWN = 20  # lines of one kind in a text
_LOADED = ("here", "in the checkpoint")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same on both sides.

    Attributes:
        kind: "missing" is here and not in the checkpoint, "unexpected" the other way round; "reshaped" has another
            shape, "retyped" another dtype, "changed" another value; "left" could not be brought over.
        what: the thing, in words: "weight 'head.bias'", "betas of group 'adamw'".
        here: its shape, dtype or value here; empty where it has none.
        there: the same in the checkpoint.
        tells: whether it may have come about by training on, as a rate that a loop sets by itself: it is told, and is
            no reason to refuse a load.
    """

    kind: Kind
    what: str
    here: str = ""
    there: str = ""
    tells: bool = False

    def __str__(self) -> str:
        return self.line(*_LOADED)

    def line(self, here: str, there: str) -> str:
        """It in one line, with names for the two sides."""
        sides = f": {self.here} {here}, {self.there} {there}" if self.here and self.there else ""
        return f"{self.kind:<10}  {self.what}{sides}"


@dataclass(frozen=True)
class Differences(Sequence[Difference]):
    """All differences. `str()` gives a line for each, kind by kind."""

    found: tuple[Difference, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.found)

    def __str__(self) -> str:
        return self.text(*_LOADED)

    def text(self, here: str, there: str, indent: str = "  ") -> str:
        """A line for each, with names for the two sides; long lists are cut."""
        lines = []
        for kind in get_args(Kind):
            those = [each for each in self.found if each.kind == kind]
            lines += [f"{indent}{each.line(here, there)}" for each in those[:_SHOWN]]
            lines += [f"{indent}{kind:<10}  and {len(those) - _SHOWN} more"] * (len(those) > _SHOWN)
        return "\n".join(lines)

    @property
    def refuse(self) -> bool:
        """Whether one of them is a reason not to load."""
        return not all(each.tells for each in self.found)

    def to_data(self) -> list[dict[str, Any]]:
        """As plain values."""
        return [asdict(each) for each in self.found]


def in_words(value: Any) -> str:
    """A value for a message, not too long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def compare_groups(
    where: str, here: Mapping[str, Any], there: Mapping[str, Any], leave: frozenset[str]
) -> Iterator[Difference]:
    """How the hyper-parameters of one group differ.

    A schedule multiplies a base, kept as `initial_lr` and so on; where the checkpoint has a base, bases are compared,
    for they are what was chosen. A number without one may have been moved by a loop, and so is only told.
    """
    for name in here:
        if name not in there or name in leave or name.startswith("initial_"):
            continue
        base = f"initial_{name}"
        ours, theirs = here.get(base, here[name]), there.get(base, there[name])
        if plain(ours) != plain(theirs):
            moved = base not in there and is_number(ours) and is_number(theirs)
            yield Difference("changed", f"{name} of {where}", in_words(plain(ours)), in_words(plain(theirs)), moved)


def plain(value: Any) -> Any:
    """A value that can be compared: tensors as numbers, tuples as lists."""
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def is_number(value: Any) -> bool:
    """Whether it is a number, or several."""
    value = plain(value)
    if isinstance(value, list):
        return all(is_number(each) for each in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
