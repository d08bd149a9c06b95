"""The user's word on a parameter, by its name, that of a module around it, or a pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from stepwell.roles.names import ParameterRole
from stepwell.text.naming import nearest


def taken_keys(
    entries: Iterable[ParameterRole],
    keys: Mapping[str, object],
    argument: str,
    unused: str,
    takes: Callable[[ParameterRole, str], bool] | None = None,
) -> dict[str, str]:
    """Which key speaks for each parameter that one speaks for, by the parameter's name: the first that matches it.

    Args:
        entries: the parameters.
        keys: parameter names, module names or shell-style patterns over parameter names, each with what it says.
        argument: what errors call the mapping, such as "roles".
        unused: what errors say of a key whose every match has an earlier key, or is not taken.
        takes: whether a parameter that a key matches can be what the key says; None where each can.

    Raises:
        ValueError: for a key that matches no parameter, or speaks for none.
    """
    entries = list(entries)
    names = [name for entry in entries for name in entry.names]
    for key in keys:
        if not any(_matches(name, key) for name in names):
            modules = {name.rpartition(".")[0] for name in names} - {""}
            raise ValueError(f"{argument}[{key!r}] matches no parameter{nearest(key, [*names, *modules])}")
    taken: dict[str, str] = {}
    for entry in entries:
        for key in keys:
            if any(_matches(name, key) for name in entry.names) and (takes is None or takes(entry, key)):
                taken[entry.name] = key
                break
    idle = [key for key in keys if key not in set(taken.values())]
    if idle:
        raise ValueError(f"{argument}[{idle[0]!r}] {unused}")
    return taken


def _matches(name: str, key: str) -> bool:
    """Whether a key is a parameter's name, that of a module around it, or a pattern."""
    return name == key or name.startswith(f"{key}.") or fnmatchcase(name, key)
