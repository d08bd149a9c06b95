"""The command `stepwell diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

HELP = "\n\n".join(
    (
        "Say how one checkpoint differs from another: weights, state, groups, schedules, extra.",
        "Numbers are compared by their checksums, so nothing the size of the model is read. The exit code is 0 where "
        "the two are the same, and 1 where they differ.",
        "[bold]Examples[/bold]\n  stepwell diff runs/gpt/000011 runs/gpt/000012\n  stepwell diff runs/a runs/b --json",
    )
)
SAME, DIFFERENT = 0, 1


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A folder of checkpoints, or one of them.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Says how two checkpoints differ; see `HELP`. Returns the exit code."""
    from stepwell.checkpoint import diff as compare

    found = compare(a, b)
    if as_json:
        typer.echo(json.dumps(found.to_data(), indent=1, ensure_ascii=False))
    else:
        typer.echo(found.text("in A", "in B", indent="") if found else "They are the same.")
    return DIFFERENT if found else SAME
