"""The command `stepwell find-lr`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stepwell.range_test import RangeTest

HELP = "\n\n".join(
    (
        "Train a few steps at rising learning rates, and say which are worth trying.",
        "The loss is drawn against the rate. The [bold]steepest[/bold] slope and the middle of the longest fall, the "
        "[bold]valley[/bold], are suggested; the sweep ends where the loss takes off.",
        "[bold]Examples[/bold]\n"
        "  stepwell find-lr\n"
        "  stepwell find-lr --task lines:fit --optimizer muon --out rates.html",
    )
)
INTERRUPTED = 130


def find_lr(
    task: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Your own model and data: a function of the seed that returns a stepwell.compare.Task; a whole one "
            "stands in docs/getting-started.md and in that class's docstring.",
        ),
    ] = "bytegpt",
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="The recipe's name in stepwell.create_optimizer.")
    ] = "adamw",
    low: Annotated[str, typer.Option(metavar="NUMBER", help="The first rate.")] = "1e-6",
    high: Annotated[str, typer.Option(metavar="NUMBER", help="The last rate.")] = "1.0",
    steps: Annotated[str, typer.Option(metavar="INTEGER", help="Steps of the sweep.")] = "100",
    sweep: Annotated[str, typer.Option(metavar="NAME", help="exponential or linear.")] = "exponential",
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="Draws the weights and the batches.")] = "0",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the curve there: .svg or .html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: rates, losses, what they suggest.")] = False,
) -> int:
    """Runs a range test; see `HELP`. Returns the exit code."""
    from stepwell.cli.arguments import check_writable, number, picture, users, whole_number, write_whole

    kind = None if out is None else picture(out)
    if out is not None:
        check_writable(out)
    drawn = whole_number("--seed", seed, low=0, high=2**31 - 1)
    first, last = number("--low", low, above=0), number("--high", high, above=0)
    count = whole_number("--steps", steps, low=2)
    from stepwell.compare.task import blame, load_task
    from stepwell.compare.training import make_model
    from stepwell.range_test import find_lr as search
    from stepwell.routing import create_optimizer

    loaded = load_task(task, drawn)
    model = make_model(loaded, drawn)
    batches = iter(range(count))
    with users(high="--high", sweep="--sweep"):
        built = create_optimizer(model, optimizer)

        def step() -> float:
            with blame(loaded.name):
                loss = loaded.loss(model, loaded.batch(next(batches)))
                loss.backward()  # type: ignore[no-untyped-call]
            built.step()
            built.zero_grad()
            return loss.item()

        try:
            found = search(step, built, model, low=first, high=last, steps=count, sweep=sweep)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            print("stepwell: interrupted; nothing was changed", file=sys.stderr)
            return INTERRUPTED
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
    if out is not None:
        write_whole(out, _picture(found, kind == "html"))
        if not as_json:
            typer.echo(str(out))
    return 0


def _picture(found: RangeTest, html: bool) -> str:
    from stepwell.pictures.plots import page

    return page("Learning-rate range test", found.svg()) if html else f"{found.svg()}\n"
