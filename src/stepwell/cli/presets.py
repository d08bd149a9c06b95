"""The command `stepwell presets`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

HELP = "\n\n".join(
    (
        "List the recipes that come with stepwell, or print one of them.",
        "Each number in them has a source. Printed as TOML, one is where a recipe of your own begins; comments say "
        "which rates our own runs, of small models, found best for it.",
        "[bold]Examples[/bold]\n  stepwell presets\n  stepwell presets llama > mine.toml",
    )
)


def presets(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The one to print, as TOML or JSON.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Lists presets, or prints one; see `HELP`. Returns the exit code."""
    from stepwell.advice.measured import OTHERWISE, WHERE, citations
    from stepwell.cli.arguments import users
    from stepwell.recipes import PRESETS, preset

    if name:
        with users():
            chosen = preset(name)
        comments = "" if as_json else "".join(f"# {line}\n" for line in citations(chosen.name))
        typer.echo(chosen.to_json() if as_json else comments + chosen.to_toml(), nl=False)
        return 0
    if as_json:
        typer.echo(json.dumps([recipe.to_dict() for recipe in PRESETS.values()], indent=1, ensure_ascii=False))
        return 0
    from stepwell.cli.summary import console, presets_table, show_whole

    where = console()
    show_whole(presets_table(list(PRESETS.values())), where)
    otherwise = "; ".join(f"{recipe} {how}" for recipe, how in OTHERWISE.items())
    where.print(f"\nRuns of small models: {WHERE}. Not as the preset has it: {otherwise}.", style="dim")
    return 0
