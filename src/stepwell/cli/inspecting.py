"""The command `stepwell inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stepwell.checkpoint import Contents
    from stepwell.checkpoint.contents import Tensors

HELP = "\n\n".join(
    (
        "Say what a checkpoint holds: its groups, rules and rates, its state and its size.",
        "Without --verify nothing is read but the manifest and the headers, however big it is.",
        "[bold]Examples[/bold]\n"
        "  stepwell inspect runs/gpt\n"
        "  stepwell inspect runs/gpt/000012 --verify\n"
        "  stepwell inspect runs/gpt --json",
    )
)


def inspect(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A folder of checkpoints, of which the newest is taken, or one."),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every tensor too, and compare it with its checksum.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Says what a checkpoint holds; see `HELP`. Returns the exit code."""
    from stepwell.checkpoint import inspect as look

    found = look(checkpoint, verify=verify)
    if as_json:
        typer.echo(json.dumps(found.to_data(), indent=1, ensure_ascii=False))
        return 0
    from stepwell.cli.summary import console, groups_table, show_whole

    typer.echo(f"{found.path}\n")
    for name, text in lines(found, verify):
        typer.echo(f"  {name:<10} {text}")
    if found.groups:
        typer.echo()
        show_whole(groups_table(found.groups), console())
    return 0


def lines(found: Contents, verified: bool) -> list[tuple[str, str]]:
    """What there is to say beside the groups, each under its heading."""
    from stepwell.checkpoint.plain import readable
    from stepwell.text import numbers

    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    said = [
        ("saved", f"{found.saved} by {versions}"),
        ("format", f"{found.format}, {numbers.data(found.bytes)}{', every checksum is right' if verified else ''}"),
    ]
    if found.step is not None:
        said.append(("step", f"{found.step:,}"))
    if found.model is not None:
        said.append(("model", tensors(found.model)))
    if found.recipe is not None:
        rules = dict.fromkeys(route["rule"] for route in found.recipe["routes"])
        said.append(("recipe", f"{found.recipe.get('name', 'without a name')}: {', '.join(rules)}"))
    if found.scheduler is not None:
        state = found.scheduler["state"]
        at = f" at step {step:,}" if isinstance(step := state.get("step", state.get("last_epoch")), int) else ""
        schedules = state.get("schedules", {})
        chosen = "".join(f"; {name} {short(str(text))}" for name, text in schedules.items())
        said.append(("scheduler", f"{found.scheduler['class']}{at}{chosen}"))
    if found.random:
        said.append(("random", ", ".join(found.random)))
    said += [("extra", f"{name} = {short(repr(readable(value)))}") for name, value in found.extra.items()]
    if found.beside:
        said.append(("beside it", ", ".join(found.beside)))
    return said


def tensors(held: Tensors) -> str:
    """How many of what, in a few words."""
    from stepwell.text import numbers

    kinds = ", ".join(held.dtypes)
    return f"{held.tensors:,} tensors, {held.numbers:,} numbers ({kinds}), {numbers.data(held.bytes)}"


def short(text: str) -> str:
    """A text on a line, not too long."""
    return text if len(text) <= 80 else f"{text[:79]}…"
