"""The command `stepwell plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.models import HfConfig, Meta, Model

HELP = "\n\n".join(
    (
        "Say what a recipe will do to a model, before anything is allocated.",
        "Every parameter's rule, learning rate and decay, [bold]and why[/bold]; below the table, what is likely not "
        "meant. RECIPE is the name of a preset ([bold]stepwell presets[/bold]) or of a rule "
        "([bold]stepwell list[/bold]), or a file of your own, .toml or .json.",
        "[bold]Examples[/bold]\n"
        "  stepwell plan muon --model mymodel:make --horizon 10000\n"
        "  stepwell plan recipe.toml --hf-config config.json --html plan.html\n"
        "  stepwell plan muon --model mymodel:make --explain blocks.3.attn.qkv.weight",
    )
)
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A preset, a rule, or a file.", show_default=False)]


def plan(
    recipe: Recipe,
    model: Model = "",
    hf_config: HfConfig = None,
    meta: Meta = False,
    horizon: Annotated[
        str, typer.Option(metavar="INTEGER", help="Total optimizer steps, which schedules are laid over.")
    ] = "",
    explain: Annotated[str, typer.Option(metavar="NAME", help="Tell one parameter's whole story instead.")] = "",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan there too, with pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Prints a plan; see `HELP`. Returns the exit code."""
    from stepwell.cli.arguments import InputError, users, whole_number, write_whole
    from stepwell.cli.models import chosen_model
    from stepwell.planning import plan as lay
    from stepwell.recipes import named

    if explain and as_json:
        raise InputError("--explain prints text and --json data: give one of them")
    if html is not None and html.suffix.casefold() != ".html":
        raise InputError(f"--html must end in .html, got {str(html)!r}")
    steps = whole_number("--horizon", horizon, low=1) if horizon else None
    with users():
        chosen = named(recipe)
        laid = lay(chosen_model(model, hf_config, meta), chosen, horizon=steps)
        story = laid.explain(explain) if explain else ""
    if html is not None:
        write_whole(html, laid.to_html())
    if as_json:
        typer.echo(json.dumps(laid.to_dict(), indent=1, ensure_ascii=False))
    elif explain:
        typer.echo(story)
    else:
        from stepwell.cli.summary import console, show_plan

        show_plan(laid, console())
        if html is not None:
            typer.echo(f"\n{html}")
    return 0
