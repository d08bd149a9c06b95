"""What recipes and routes have in common: frozen data, some of whose fields are read-only tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self


class Frozen:
    """A frozen dataclass that prints as the code that makes it, and pickles although its tables are read-only."""

    def plain(self) -> Self:
        """Another, in which all stands at its default that can."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """What it is made with, field by field."""
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: getattr(self, field.name) for field in fields}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def __repr__(self) -> str:
        given, plain = self.arguments(), self.plain().arguments()
        needed = next(iter(given))
        shown = [f"{name}={value!r}" for name, value in given.items() if name == needed or value != plain[name]]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> Any:
        return _made, (type(self), self.arguments())

    def _settle(self, **values: Any) -> None:
        """Put values in the form that the fields keep, while it is made."""
        for name, value in values.items():
            object.__setattr__(self, name, MappingProxyType(value) if isinstance(value, dict) else value)


def _made(kind: type, arguments: dict[str, Any]) -> Any:
    return kind(**arguments)
