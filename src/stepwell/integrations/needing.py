"""The one place that says which extra brings a package that an integration stands on."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from types import ModuleType


def needed(package: str, *, extra: str, least: str) -> ModuleType:
    """The package, imported.

    Args:
        package: its name, for import and for installation.
        extra: the extra of stepwell that brings it.
        least: the oldest version that will do.

    Raises:
        ImportError: it is not there or too old; the message names the one command that brings it.
    """
    command = f"pip install 'stepwell[{extra}]'"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{package} is not installed: {command}", name=package) from None
    if _release(version) < _release(least):
        raise ImportError(f"{package} {version} is too old, {least} is needed: {command} --upgrade", name=package)
    return importlib.import_module(package)


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, which compare as tuples do."""
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version)[0]))
