"""Functions of the user's, found by name and called so that an error in them is one line that says where."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepwell.text.naming import nearest

_PACKAGE = Path(__file__).parent


def find_function(
    spec: str, kind: str, does: str, error: type[ValueError], names: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """The function that `spec` ('module:function') names; the current directory is importable.

    Args:
        spec: what the user wrote.
        kind: what it is a function for, such as "task"; errors speak of it.
        does: what the function takes or gives, such as "of the seed".
        error: what is raised where there is none.
        names: what else might have been written.
    """
    module_name, colon, name = spec.partition(":")
    # A leading dot is a file's path, or relative to a package where there is none.
    if not (colon and module_name and name.isidentifier()) or module_name.startswith("."):
        allowed = " and ".join([*map(repr, names), "module:function"])
        verb = "are" if names else "is"
        raise error(f"unknown {kind} {spec!r}; allowed {verb} {allowed}{nearest(spec, names)}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise error(f"cannot import {kind} module {module_name!r}: {problem}") from problem
        known = (path.stem for path in Path(here).glob("*.py"))
        raise error(
            f"unknown {kind} module {module_name!r}: no such module in {here} or among the installed packages"
            f"{nearest(module_name, known)}"
        ) from problem
    except Exception as problem:
        raise error(f"cannot import {kind} module {module_name!r}: {one_line(problem)}") from problem
    function = getattr(module, name, None)
    if function is None:
        known = (key for key, value in vars(module).items() if callable(value))
        raise error(f"{kind} module {module_name!r} has no function {name!r}{nearest(name, known)}")
    if not callable(function):
        raise error(f"{kind} {spec!r} must be a function {does}, got {type(function).__name__}")
    return function  # type: ignore[no-any-return]


@contextmanager
def blaming(what: str, error: type[ValueError]) -> Iterator[None]:
    """Turns an error in a user's own code into one line that says where in it."""
    try:
        yield
    except error:
        raise
    except Exception as problem:
        raise error(f"{what} failed: {one_line(problem)}") from problem


def one_line(error: BaseException) -> str:
    """The error's type and message on one line, with the last line of the user's own code that led to it, if any."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {message}"
    # An error in a builtin has no line but that of our call.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path.cwd())] or frames
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {message}{where}"
