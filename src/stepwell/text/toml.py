"""TOML, read with the place of each mistake, and written, which the standard library does not."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

BYTE_ORDER_MARK = "\ufeff"  # some editors begin a file with it


def read(text: str) -> dict[str, Any]:
    """What a TOML document holds. Raises ValueError, with line and column."""
    try:
        return tomllib.loads(text.removeprefix(BYTE_ORDER_MARK))
    except tomllib.TOMLDecodeError as error:
        *before, last = text.split("\n")
        end = f"line {len(before) + 1}, column {len(last) + 1}"
        raise ValueError(f"no TOML: {error}".replace("(at end of document)", f"(at {end})")) from None
    except RecursionError:
        raise ValueError("no TOML that can be read: it is nested too deep") from None


def document(values: Mapping[str, Any]) -> str:
    """A TOML document: plain values first, then a table for each dict, then one for each dict of a list of dicts."""
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    arrays = {name: value for name, value in values.items() if _is_array_of_tables(value)}
    parts = [pairs({name: value for name, value in values.items() if name not in tables and name not in arrays})]
    parts += [f"[{key(name)}]\n{pairs(table)}" for name, table in tables.items()]
    parts += [f"[[{key(name)}]]\n{pairs(table)}" for name, array in arrays.items() for table in array]
    return "\n".join(part for part in parts if part)


def key(name: str) -> str:
    """A name as it stands before the equals sign."""
    return name if name.replace("-", "_").isidentifier() and name.isascii() else _string(name)


def value(plain: Any) -> str:
    """A string, number, list or dict as it stands behind the equals sign. Raises TypeError for anything else."""
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, (int, float)):
        return repr(plain)
    if isinstance(plain, str):
        return _string(plain)
    if isinstance(plain, Mapping):
        return f"{{ {', '.join(f'{key(name)} = {value(one)}' for name, one in plain.items())} }}"
    if isinstance(plain, list):
        return f"[{', '.join(map(value, plain))}]"
    raise TypeError(f"TOML has no word for {plain!r}")


def pairs(table: Mapping[str, Any]) -> str:
    """The lines of one table, dicts in it written inline."""
    return "".join(f"{key(name)} = {value(plain)}\n" for name, plain in table.items())


def _string(text: str) -> str:
    """In quotation marks, as JSON has it but for two points: no pairs of surrogates, and no bare delete."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_array_of_tables(plain: Any) -> bool:
    return isinstance(plain, list) and bool(plain) and all(isinstance(one, Mapping) for one in plain)
