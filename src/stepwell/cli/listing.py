"""The command `stepwell list`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

HELP = "\n\n".join(
    (
        "List the optimizers: what each does, what it acts on, and the state that it keeps.",
        "State is counted for a parameter of 768 × 3072 under the defaults, in numbers for each number of the "
        "parameter.",
        "[bold]Examples[/bold]\n"
        "  stepwell list --memory 1\n"
        "  stepwell list --acts-on matrices\n"
        "  stepwell list --memory 0.5 --json",
    )
)


def listing(
    memory: Annotated[
        str, typer.Option(metavar="NUMBER", help="Only those with at most so many numbers of state a parameter.")
    ] = "",
    acts_on: Annotated[
        str, typer.Option(metavar="KIND", help="Only those of elements, of tensors or of matrices.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Lists the optimizers; see `HELP`. Returns the exit code."""
    from stepwell.catalogue import entries
    from stepwell.cli.arguments import number, users

    most = number("--memory", memory, low=0) if memory else None
    with users(acts_on="--acts-on"):
        found = entries(acts_on=acts_on or None, memory=most)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in found], indent=1, ensure_ascii=False))
        return 0
    if not found:
        typer.echo("No optimizer is as asked for.")
        return 0
    from stepwell.cli.summary import console, optimizers_table, show_whole

    show_whole(optimizers_table(found), console())
    return 0
