"""How an error shows the value that it refuses: on one line, however much was given."""

from __future__ import annotations

MOST = 80  # letters


def shown(value: object, *, typed: bool = False) -> str:
    """The value as Python writes it, where that is one short line; the beginning of a longer line of plain values; of
    anything else what it is: the text of a model, an optimizer or a list of parameters would fill pages. `typed` adds
    the type that the text alone may not tell.

    >>> shown(0.1), shown("adamw"), shown("0.1", typed=True)
    ('0.1', "'adamw'", "'0.1' of type str")
    """
    text, kind = repr(value), type(value).__name__
    told = f" of type {kind}" if typed else ""
    plain = "\n" not in text
    if plain and len(text) <= MOST:
        return f"{text}{told}"
    if plain and isinstance(value, str | bytes | int | float | list | tuple | set | dict):
        return f"{text[: MOST - 1]}…{told}"
    many = f" of {len(value):,}" if isinstance(value, list | tuple | set | dict) else ""
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}{many}"
