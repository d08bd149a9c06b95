"""The command `stepwell memory`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stepwell.cli.models import HfConfig, Meta, Model
from stepwell.cli.plan import Recipe

HELP = "\n\n".join(
    (
        "Count the memory that training a model under a recipe needs, and other recipes beside it.",
        "Weights, gradients, state by slot, and the temporaries of an optimizer step at its fullest moment. "
        "Activations are not counted. Nothing is allocated where the model is made with --meta or --hf-config.",
        "[bold]Examples[/bold]\n"
        "  stepwell memory muon --model mymodel:make --meta\n"
        "  stepwell memory adamw --hf-config config.json --world-size 8 --sharded\n"
        "  stepwell memory adamw --model mymodel:make --beside soap,mine.toml",
    )
)


def memory(
    recipe: Recipe,
    model: Model = "",
    hf_config: HfConfig = None,
    meta: Meta = False,
    world_size: Annotated[str, typer.Option(metavar="INTEGER", help="The number of ranks.")] = "1",
    sharded: Annotated[
        bool, typer.Option("--sharded", help="The ranks share weights, gradients and state among them, as in FSDP.")
    ] = False,
    beside: Annotated[
        str, typer.Option(metavar="NAMES", help="Recipes to show beside it, with commas between: names, or files.")
    ] = "adamw,lion,muon,t5-adafactor",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes.")] = False,
) -> int:
    """Prints what a recipe needs of memory; see `HELP`. Returns the exit code."""
    from stepwell.cli.arguments import listed, users, whole_number
    from stepwell.cli.models import chosen_model
    from stepwell.planning import plan
    from stepwell.recipes import named

    ranks = whole_number("--world-size", world_size, low=1)
    with users():
        others = [named(name) for name in listed(beside)]
        laid = plan(chosen_model(model, hf_config, meta), named(recipe))
        found = laid.memory(world_size=ranks, sharded=sharded, beside=others)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
        return 0
    from stepwell.cli.summary import console, memory_table, show_whole

    where = console()
    show_whole(memory_table(found), where)
    if found.ranks:
        where.print(found.ranks, style="dim", highlight=False)
    return 0
