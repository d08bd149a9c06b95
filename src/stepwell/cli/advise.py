"""The command `stepwell advise`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

HELP = "\n\n".join(
    (
        "Say where to start: learning rate, decay and warm-up, each with the reasoning and its source.",
        "The numbers are tables and formulas of a lecture, of papers and of libraries, and what our own runs on small "
        "tasks found best. Where they disagree, all are given. Nothing is measured on your task: "
        "[bold]stepwell find-lr[/bold] and [bold]stepwell compare --sweep[/bold] do that.",
        "[bold]Examples[/bold]\n"
        "  stepwell advise --optimizer adamw --architecture transformer --samples 2000000 --steps 50000\n"
        "  stepwell advise --optimizer lion --adamw-lr 3e-4 --adamw-decay 0.1\n"
        "  stepwell advise --optimizer sgd-momentum --batch-size 1024 --reference-batch-size 256",
    )
)
_NAMES = ("optimizer", "architecture", "data")


def advise(
    optimizer: Annotated[
        str,
        typer.Option(metavar="NAME", help="sgd, sgd-momentum, adam, adamw, rmsprop, adagrad, lion or muon."),
    ] = "adamw",
    architecture: Annotated[str, typer.Option(metavar="NAME", help="cnn, resnet or transformer.")] = "",
    samples: Annotated[str, typer.Option(metavar="INTEGER", help="Training samples.")] = "",
    data: Annotated[str, typer.Option(metavar="NAME", help="simple or complex.")] = "",
    epochs: Annotated[str, typer.Option(metavar="NUMBER", help="Passes over the data.")] = "",
    steps: Annotated[str, typer.Option(metavar="INTEGER", help="Total optimizer steps.")] = "",
    batch_size: Annotated[str, typer.Option(metavar="INTEGER", help="Samples in a step.")] = "",
    reference_batch_size: Annotated[
        str, typer.Option(metavar="INTEGER", help="The batch size to scale the rate from.")
    ] = "",
    adamw_lr: Annotated[str, typer.Option(metavar="NUMBER", help="A rate of AdamW that works here.")] = "",
    adamw_decay: Annotated[str, typer.Option(metavar="NUMBER", help="A decay of AdamW that works here.")] = "",
    fine_tuning: Annotated[bool, typer.Option("--fine-tuning", help="A trained model is trained on.")] = False,
    transfer_learning: Annotated[
        bool, typer.Option("--transfer-learning", help="A trained model is used on another task.")
    ] = False,
    deeper: Annotated[bool, typer.Option("--deeper", help="Deeper than what the rate was found for.")] = False,
    unstable: Annotated[bool, typer.Option("--unstable", help="Training has been unstable.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Prints advice; see `HELP`. Returns the exit code."""
    from stepwell.advice import advising
    from stepwell.cli.arguments import number, users, whole_number

    whole = {
        "samples": samples,
        "steps": steps,
        "batch_size": batch_size,
        "reference_batch_size": reference_batch_size,
    }
    real = {"epochs": epochs, "adamw_lr": adamw_lr, "adamw_weight_decay": adamw_decay}
    named = {"adamw_weight_decay": "--adamw-decay"}
    given = {
        **{name: whole_number(_option(name), text, low=1) for name, text in whole.items() if text},
        **{name: number(named.get(name, _option(name)), text, above=0) for name, text in real.items() if text},
        **{name: text for name, text in (("architecture", architecture), ("data", data)) if text},
    }
    with users(**{name: named.get(name, _option(name)) for name in (*whole, *real, *_NAMES)}):
        found = advising.advise(
            optimizer,
            fine_tuning=fine_tuning,
            transfer_learning=transfer_learning,
            deeper=deeper,
            unstable=unstable,
            **given,  # type: ignore[arg-type]
        )
    typer.echo(json.dumps(advising.as_data(found), indent=1, ensure_ascii=False) if as_json else str(found))
    return 0


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
