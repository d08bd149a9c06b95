"""The command line: `stepwell`."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

NEEDED = ("rich", "typer")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and ends the process: 0 for done, 2 for bad input (one line on stderr), 130 for Ctrl-C.

    What a stream has no bytes for, as a pipe in Windows' code page, is printed as a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":  # stderr escapes such signs
            stream.reconfigure(errors="replace")
    try:
        from stepwell.cli import app
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        print(f"stepwell: the command line needs {error.name}: pip install 'stepwell[cli]'", file=sys.stderr)
        sys.exit(2)
    app.main(arguments)
